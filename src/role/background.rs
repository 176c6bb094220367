//! Work that gives way to what is live.

use anyhow::Context;
use tokio::sync::oneshot;

/// A third of the weight of other threads (nice(7): each step is about a quarter). Where cores are short, live chat goes first
/// and the archive falls behind; it still gets enough to come level again before the log is full.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Runs work on a thread of its own, with a runtime of its own, at a lower priority. Threads that it starts have that
/// priority too. Where it is not Linux, the priority is everybody's: there a thread cannot have one of its own.
pub(crate) async fn in_background<F>(
    name: &'static str,
    work: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| format!("the runtime of the {name} cannot be started"))?;
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            give_way(name);
            // Who waits for the end may be gone.
            let _ = end.send(runtime.block_on(work()));
        })
        .with_context(|| format!("the thread of the {name} cannot be started"))?;
    ended
        .await
        .with_context(|| format!("the thread of the {name} has ended"))?
}

#[cfg(target_os = "linux")]
fn give_way(name: &str) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, name, "its thread keeps the priority of the others");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way(_: &str) {}
