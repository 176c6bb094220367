//! What a worker does between taking the lease and writing.

use natterjack_nats_config::lease::RENEW_EVERY;
use tokio::time::Instant;

use super::{Leader, Round};
use crate::log::admit::{Draft, found_tenant};
use crate::log::append::Appended;
use crate::log::broken::broken;
use crate::log::log_time::LogClock;
use crate::log::state::STATE_VERSION;
use crate::log::writer::{WriterError, fold};

impl Leader<'_> {
    /// Makes sure that nobody else can write any more, and that this worker knows all that was written.
    pub(super) async fn take_over(&mut self) -> Result<Round, WriterError> {
        if self.pass_barrier().await? == Round::StepDown {
            return Ok(Round::StepDown);
        }
        Ok(self.found().await)
    }

    /// Appends an empty `leader` frame behind everything: a predecessor's frame can land until then, and not after.
    async fn pass_barrier(&mut self) -> Result<Round, WriterError> {
        loop {
            self.fold_to_the_end().await?;
            if self.must_step_down() {
                return Ok(Round::StepDown);
            }
            if broken("barrier") {
                return Ok(Round::Go);
            }
            let frame = self.frame(Draft::after(self.state.end()));
            match self.appender.append(&frame).await {
                Appended::Committed => {
                    self.state.pass_frame(frame.stream_seq);
                    self.state.begin_term(Some(STATE_VERSION));
                    self.clock = self.log_time(frame.stream_seq).await;
                    return Ok(Round::Go);
                }
                Appended::Lost => {}
                Appended::Full => {
                    tracing::error!("the log is full, not even policy can be written: raise `store.log_max_bytes`");
                    tokio::time::sleep(RENEW_EVERY).await;
                }
            }
        }
    }

    /// Log time as it was when a frame was stored.
    async fn log_time(&self, stream_seq: u64) -> LogClock {
        loop {
            let asked = Instant::now();
            match self.appender.stored_at_ms(stream_seq).await {
                Ok(stored_ms) => return LogClock::start(asked, stored_ms.max(self.state.at_ms())),
                Err(error) => tracing::debug!(%error, "waiting for the barrier's time"),
            }
            tokio::time::sleep(RENEW_EVERY / 4).await;
        }
    }

    async fn fold_to_the_end(&mut self) -> Result<(), WriterError> {
        let end = loop {
            match self.config.log.end(self.client).await {
                Ok(end) => break end,
                Err(error) => tracing::debug!(%error, "waiting for the log"),
            }
            tokio::time::sleep(RENEW_EVERY / 4).await;
        };
        let mut tail = self.config.log.tail(self.client, self.state.end());
        while self.state.end() < end {
            fold(&mut self.state, &tail.next().await?)?;
        }
        Ok(())
    }

    async fn found(&mut self) -> Round {
        let Some(bootstrap) = &self.config.bootstrap else {
            return Round::Go;
        };
        if self.state.view.has_tenant(&bootstrap.admin.tenant) {
            return Round::Go;
        }
        let mut draft = Draft::after(self.state.end());
        let now = self.now();
        if let Err(error) = found_tenant(&mut self.state, &mut draft, &bootstrap.admin, &now) {
            tracing::error!(%error, "the first tenant cannot be made");
            return Round::Go;
        }
        let frame = self.frame(draft);
        match self.appender.append(&frame).await {
            Appended::Committed => {
                self.state.pass_frame(frame.stream_seq);
                Round::Go
            }
            Appended::Lost | Appended::Full => Round::StepDown,
        }
    }
}
