use std::collections::HashMap;

use super::{Verdict, What, entry};
use crate::history::{History, Outcome, Receipt, Send};

/// Receipts against the log (I1), keys (I2), and events that nobody asked for.
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let mut asked: HashMap<(&str, &str), &Send> = HashMap::with_capacity(history.sends.len());
    for send in &history.sends {
        asked.insert((&send.user, &send.key), send);
        if let Outcome::Ok(receipt) = &send.outcome {
            receipt_holds(history, send, receipt, verdict);
            for again in send.again.iter().filter(|again| *again != receipt) {
                verdict.add(What::ReceiptsDiffer, || {
                    format!("{} key {}: {receipt:?}, later {again:?}", send.user, send.key)
                });
            }
        }
    }
    keys(history, &asked, verdict);
}

fn receipt_holds(history: &History, send: &Send, receipt: &Receipt, verdict: &mut Verdict) {
    let words = || format!("{} key {} in room {}: {receipt:?}", send.user, send.key, send.room);
    let Some(entry) = entry(history, receipt.seq) else {
        return verdict.add(What::LostFromLog, words);
    };
    let is_it = entry.key.as_deref() == Some(&send.key) && entry.from == send.user && entry.room == send.room;
    let told = (receipt.n, receipt.id, receipt.at_ms);
    if !is_it || told != (entry.n, entry.id, entry.at_ms) {
        verdict.add(What::ReceiptWrong, || {
            format!("{}, but there stands {entry:?}", words())
        });
    }
}

fn keys(history: &History, asked: &HashMap<(&str, &str), &Send>, verdict: &mut Verdict) {
    let mut written: HashMap<(&str, &str), u64> = HashMap::with_capacity(history.log.len());
    for entry in history.log.iter().filter(|entry| entry.message) {
        let key = entry.key.as_deref().unwrap_or_default();
        if let Some(first) = written.insert((&entry.from, key), entry.seq) {
            verdict.add(What::WrittenTwice, || {
                format!("{} key {key}: seq {first} and seq {}", entry.from, entry.seq)
            });
        }
        match asked.get(&(&*entry.from, key)) {
            None => verdict.add(What::FromNowhere, || format!("{entry:?}")),
            Some(send) => {
                if let Outcome::Failed(code) = &send.outcome {
                    verdict.add(What::RefusedButWritten, || {
                        format!(
                            "{} key {key} was refused ({code}), but stands at seq {}",
                            send.user, entry.seq
                        )
                    });
                }
            }
        }
    }
}
