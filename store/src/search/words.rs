//! What is searched for in a text: the same on every engine, so that each finds the same.
//!
//! Texts in scripts that put no spaces between words are cut into pairs of characters, others into words. An engine sees
//! neither: it gets tokens of ASCII letters and digits, which none of them cuts, leaves out as too short or too common, or
//! compares by rules of its own.

use natterjack_nats_config::contract::Snippet;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The most bytes of a word that count: `InnoDB` indexes nothing longer than 84 characters, two of which are a byte here.
const MAX_WORD: usize = 40;
/// Words of so many characters are found by their beginning too: `deploy` finds `deployed`.
const PREFIX_FROM: usize = 3;
/// The most terms of a query.
pub(crate) const MAX_TERMS: usize = 16;
/// Characters on either side of what was found.
const AROUND: usize = 60;

/// One thing that a found text must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    /// The token, or how it begins.
    pub(crate) token: String,
    /// Whether what goes on behind it is found too.
    pub(crate) prefix: bool,
}

/// A character as it is compared, and where it stands in the text.
struct Folded {
    char: char,
    at: usize,
}

/// The tokens of a text, separated by spaces; empty if there is nothing to find in it.
pub(crate) fn tokens(text: &str) -> String {
    let mut tokens = String::new();
    for run in runs(&fold(text)) {
        match run {
            Run::Word(word) => push(&mut tokens, &word),
            Run::Pairs(chars) => {
                for pair in chars.windows(2) {
                    push(&mut tokens, &pair.iter().collect::<String>());
                }
                // So that a single character is found as the beginning of a token, wherever it stands.
                push(&mut tokens, &chars.iter().rev().take(1).collect::<String>());
            }
        }
    }
    tokens
}

/// What a query asks for; empty if it has no letter and no digit.
pub(crate) fn terms(query: &str) -> Vec<Term> {
    let mut terms = Vec::new();
    for run in runs(&fold(query)) {
        match run {
            Run::Word(word) => terms.push(Term {
                prefix: word.chars().count() >= PREFIX_FROM,
                token: token(&word),
            }),
            Run::Pairs(chars) if chars.len() == 1 => terms.push(Term {
                token: token(&chars.iter().collect::<String>()),
                prefix: true,
            }),
            Run::Pairs(chars) => terms.extend(chars.windows(2).map(|pair| Term {
                token: token(&pair.iter().collect::<String>()),
                prefix: false,
            })),
        }
    }
    terms.dedup();
    terms
}

/// The text around the first place where a run of the query stands; the beginning if it stands nowhere as it is.
pub(crate) fn snippet(text: &str, query: &str) -> Snippet {
    let folded = fold(text);
    let found = runs(&fold(query)).into_iter().find_map(|run| {
        let wanted = match run {
            Run::Word(word) => word.chars().collect(),
            Run::Pairs(chars) => chars,
        };
        let begin = folded
            .windows(wanted.len().max(1))
            .position(|window| window.iter().map(|folded| folded.char).eq(wanted.iter().copied()))?;
        Some((begin, begin + wanted.len()))
    });
    let (begin, end) = found.unwrap_or((0, 0));
    let place = |index: usize| folded.get(index).map_or(text.len(), |folded| folded.at);
    // A character that folds to several stands at one place: what was found ends behind it.
    let end_at = (end..=folded.len())
        .map(place)
        .find(|at| end == begin || *at > place(end - 1));
    let (from, to) = (place(begin), end_at.unwrap_or(text.len()).max(place(begin)));
    let before = &text[..from];
    let skipped = before.chars().count().saturating_sub(AROUND);
    Snippet {
        before: elide(before.chars().skip(skipped).collect(), skipped > 0, false),
        found: text[from..to].to_owned(),
        after: {
            let after: String = text[to..].chars().take(AROUND).collect();
            let cut = after.len() < text.len() - to;
            elide(after, false, cut)
        },
    }
}

enum Run {
    Word(String),
    Pairs(Vec<char>),
}

/// The text's letters and digits, in runs of one way of writing.
fn runs(folded: &[Folded]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut joined = false;
    for Folded { char, .. } in folded {
        if !is_part_of_a_word(*char) {
            joined = false;
            continue;
        }
        match (runs.last_mut().filter(|_| joined), is_written_without_spaces(*char)) {
            (Some(Run::Word(word)), false) => word.push(*char),
            (Some(Run::Pairs(chars)), true) => chars.push(*char),
            (_, false) => runs.push(Run::Word(char.to_string())),
            (_, true) => runs.push(Run::Pairs(vec![*char])),
        }
        joined = true;
    }
    runs
}

/// Upper and lower case are one, and so are a full-width letter and a plain one, and a letter with its mark apart and in one
/// (NFKC, letter by letter, so that each keeps its place).
fn fold(text: &str) -> Vec<Folded> {
    let mut folded = Vec::with_capacity(text.len());
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        if char.is_ascii() && !chars.peek().is_some_and(|(_, next)| joins(*next)) {
            let char = char.to_ascii_lowercase();
            folded.push(Folded { char, at });
            continue;
        }
        let mut letter = String::from(char);
        while let Some((_, mark)) = chars.next_if(|(_, char)| joins(*char)) {
            letter.push(mark);
        }
        let lower = letter.nfkc().flat_map(char::to_lowercase);
        folded.extend(lower.map(|char| Folded { char, at }));
    }
    folded
}

/// Whether a character belongs to the letter before it: a combining mark, a half-width kana's sound mark, and what goes on
/// a hangul syllable that is written in parts.
fn joins(char: char) -> bool {
    !char.is_ascii() && is_combining_mark(char) || matches!(char, '\u{ff9e}' | '\u{ff9f}' | '\u{1160}'..='\u{11ff}')
}

/// Letters, digits, and the marks that make a letter another one (vowels in Thai and Devanagari among them).
fn is_part_of_a_word(char: char) -> bool {
    char.is_alphanumeric() || !char.is_ascii() && is_combining_mark(char)
}

/// Han, kana, hangul; Thai, Lao, Khmer, Burmese. Hangul has spaces, but particles stick to its words.
fn is_written_without_spaces(char: char) -> bool {
    matches!(u32::from(char),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x1100..=0x11FF
        | 0x3005..=0x3007 | 0x3040..=0x30FF | 0x3100..=0x312F | 0x3130..=0x318F | 0x31A0..=0x31BF | 0x31F0..=0x31FF
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xA960..=0xA97F | 0xAC00..=0xD7FF | 0xF900..=0xFAFF
        | 0x2_0000..=0x3_FFFF)
}

fn push(tokens: &mut String, word: &str) {
    if !tokens.is_empty() {
        tokens.push(' ');
    }
    tokens.push_str(&token(word));
}

/// `x` and the word's bytes in hexadecimal: longer than any engine's least length, and no engine's common word.
fn token(word: &str) -> String {
    let mut end = word.len().min(MAX_WORD);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    let mut token = String::with_capacity(1 + 2 * end);
    token.push('x');
    for byte in word.bytes().take(end) {
        for digit in [byte >> 4, byte & 15] {
            token.extend(char::from_digit(digit.into(), 16));
        }
    }
    token
}

fn elide(text: String, front: bool, back: bool) -> String {
    match (front, back) {
        (true, _) => format!("…{text}"),
        (_, true) => format!("{text}…"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(text: &str, query: &str) -> bool {
        let tokens = tokens(text);
        let tokens: Vec<&str> = tokens.split(' ').collect();
        let terms = terms(query);
        !terms.is_empty()
            && terms.iter().all(|term| {
                tokens
                    .iter()
                    .any(|token| *token == term.token || (term.prefix && token.starts_with(&term.token)))
            })
    }

    #[test]
    fn what_is_found_and_what_is_not() {
        #[rustfmt::skip]
        let cases = [
            ("The pump was deployed",    "pump",           true),
            ("The pump was deployed",    "DEPLOY",         true),
            ("The pump was deployed",    "loyed",          false),
            ("The pump was deployed",    "pump deployed",  true),
            ("The pump was deployed",    "pump valve",     false),
            ("go to it",                 "to",             true),
            ("tomorrow",                 "to",             false),
            ("a-b_c",                    "b",              true),
            ("Grüße aus Köln",           "GRÜSSE",         false),
            ("Grüße aus Köln",           "köln",           true),
            ("cafe\u{301}",              "café",           true),
            ("ＦＵＬＬ　ｗｉｄｔｈ",        "full width",     true),
            ("明天下午三点在会议室开会",     "会议",           true),
            ("明天下午三点在会议室开会",     "会议室",         true),
            ("明天下午三点在会议室开会",     "会",             true),
            ("明天下午三点在会议室开会",     "室内",           false),
            ("新しいポンプを設置しました",   "ポンプ",         true),
            ("新しいﾎﾟﾝﾌﾟを設置",         "ポンプ",         true),
            ("新しいポンプを設置しました",   "設置",           true),
            ("펌프가 고장났습니다",         "펌프",           true),
            ("펌프가 고장났습니다",         "고장",           true),
            ("펌프가 고장났습니다",         "수리",           false),
            ("\u{1111}\u{1165}\u{11b7}\u{1111}\u{1173}", "펌프",  true),
            ("ปั๊มเสียแล้ว",               "เสีย",           true),
            ("v2版本发布",                "v2 发布",        true),
            ("насос сломался",           "НАСОС",          true),
            ("नमस्ते दुनिया",               "दुनिया",          true),
            ("🐸 frog",                  "🐸",             false),
            ("anything",                 "*",              false),
            ("100%",                     "100",            true),
        ];
        for (text, query, found) in cases {
            assert_eq!(finds(text, query), found, "{query:?} in {text:?}");
        }
    }

    #[test]
    fn tokens_are_what_every_engine_takes_whole() {
        let text = format!("a The {} {}", "w".repeat(500), "語".repeat(500));
        for token in tokens(&text).split(' ') {
            assert!((3..=84).contains(&token.len()), "{token}");
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
        }
        assert_eq!(tokens(""), "");
        assert!(finds(&text, &"w".repeat(600)));
    }

    #[test]
    fn a_snippet_shows_where_it_was_found() {
        let shown = |text: &str, query: &str| {
            let Snippet { before, found, after } = snippet(text, query);
            (before, found, after)
        };
        let three = |before: &str, found: &str, after: &str| (before.to_owned(), found.to_owned(), after.to_owned());
        assert_eq!(shown("a Pump is here", "pump"), three("a ", "Pump", " is here"));
        assert_eq!(shown("明天在会议室开会", "会议室"), three("明天在", "会议室", "开会"));
        assert_eq!(shown("新しいﾎﾟﾝﾌﾟを", "ポンプ").1, "ﾎﾟﾝﾌﾟ");
        assert_eq!(shown("ﬁne", "f").1, "ﬁ");
        assert_eq!(shown("deployed", "DEPLOY"), three("", "deploy", "ed"));
        assert_eq!(shown("nothing", "else"), three("", "", "nothing"));
        assert_eq!(shown("", "else"), three("", "", ""));
        let (before, found, after) = shown(&format!("{}pump{}", "x ".repeat(99), " y".repeat(99)), "pump");
        assert!(before.starts_with('…') && after.ends_with('…') && found == "pump");
        assert_eq!(
            (before.chars().count(), after.chars().count()),
            (AROUND + 1, AROUND + 1)
        );
    }
}
