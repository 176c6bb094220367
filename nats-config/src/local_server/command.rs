use std::ffi::OsStr;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::LocalServerError;

/// Runs a program to its end, within a limit; it is killed when that has passed.
pub(crate) async fn run(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    limit: Duration,
) -> Result<Output, LocalServerError> {
    let program = program.as_ref();
    let fail = |reason: String| LocalServerError::Command {
        what: program.to_string_lossy().into_owned(),
        reason,
    };
    let running = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(limit, running).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Err(_) => Err(fail(format!("did not end within {limit:?}"))),
    }
}

/// What a program said last: a line of its standard error, else of its standard output.
pub(crate) fn last_words(output: &Output) -> String {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty())
            .map(str::to_owned)
    };
    last(&output.stderr)
        .or_else(|| last(&output.stdout))
        .unwrap_or_else(|| format!("no message, {}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_comes_back_and_failures_are_told_apart() {
        let second = Duration::from_secs(20);
        let output = run("sh", ["-c", "echo out; echo first >&2; echo last >&2"], second)
            .await
            .unwrap();
        assert_eq!(last_words(&output), "last");
        let output = run("sh", ["-c", "echo out"], second).await.unwrap();
        assert_eq!(last_words(&output), "out");
        assert!(run("/nonexistent/program", ["x"], second).await.is_err());
        let error = run("sleep", ["60"], Duration::from_millis(20)).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
