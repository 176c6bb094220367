// Judges an AsyncAPI document on standard input by the parser of the AsyncAPI project; prints what it has against it, as JSON.
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(process.argv[2] + "/");
const { Parser } = require("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
const said = diagnostics.map(({ severity, message, path }) => ({ severity, message, path: path.join("/") }));
console.log(JSON.stringify({ channels: document ? document.allChannels().length : 0, said }));
