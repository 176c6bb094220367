#!/bin/sh
# The shortest correct client with curl: sends one message, then prints every message of a room, missing none and none twice.
#
#   TOKEN=… ./curl.sh http://127.0.0.1:8080 lobby 'hello'
#
# A line is seq, sender and text with tabs between them. The cursor is kept in CURSOR_FILE, so the next run goes on where this
# one ended.
set -u
url=$1 room=$2 text=$3
: "${TOKEN:?}" "${CURSOR_FILE:=cursor.$room}"
auth="Authorization: Bearer $TOKEN"
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && trap 'exit 1' INT TERM

# With a key it is safe to send again until there is an answer: it stands in the room once.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
until curl -sS --fail --max-time 20 "$url/v1/rooms/$room/messages" -H "$auth" -H "Idempotency-Key: $key" \
  -H 'Content-Type: text/plain' --data-raw "$text" >&2; do
  sleep 1
done

# At first from the room's beginning. After an error again with the same cursor: reading takes nothing away.
cursor=$(cat "$CURSOR_FILE" 2>/dev/null || echo earliest)
while true; do
  if curl -sS --fail --max-time 60 -D "$folder/head" -o "$folder/lines" -H "$auth" \
    "$url/v1/events?format=text&rooms=$room&wait=25&cursor=$cursor"; then
    cat "$folder/lines"
    cursor=$(tr -d '\r' <"$folder/head" | awk 'tolower($1) == "chat-cursor:" { print $2 }')
    printf %s "$cursor" >"$CURSOR_FILE"
  else
    sleep 1
  fi
done
