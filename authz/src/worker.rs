use std::sync::Arc;
use std::time::Duration;

use natterjack_nats_config::checkpoint::BeginError;
use natterjack_nats_config::client::{Login, LoginError, Seed, connect};
use natterjack_nats_config::contract::{Id, Seq};
use natterjack_nats_config::lease::{Lease, Leases, RENEW_EVERY};
use natterjack_nats_config::limits::Limits;
use natterjack_nats_config::tail::{Log, TailError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::callout::{Callout, Gate, Issued, keys, serve};
use crate::follow::{ChangedAt, Followed};
use crate::refused::RefusedLogins;
use crate::revoke::{Connections, REGISTERED, Sweeper, Swept, answer_settle, settle_subject};
use crate::token::Verifier;

/// Changes on their way to the sweeper; at the bound the view waits, and with it every new connection.
const CHANGES: usize = 4096;

/// How long a view that was fresh may be signed by without being looked at again.
const FRESH_FOR: Duration = Duration::from_millis(2500);

/// What an authz worker needs to know.
#[derive(Clone)]
pub struct AuthzConfig {
    /// Signs in as `authz` in account CORE.
    pub core: Login,
    /// Signs in as `auth` in account AUTH.
    pub auth: Login,
    /// Signs in as `sys` in account SYS.
    pub sys: Login,
    /// Signs the callout's answers.
    pub issuer: Seed,
    /// Reads the callout's requests.
    pub xkey: Seed,
    /// Which log says who may do what.
    pub log: Log,
    /// Checks tokens.
    pub verifier: Arc<Verifier>,
    /// Names this worker; unique, one plain id.
    pub worker: Id,
    /// Whose audit trail tells of refused logins: nobody knows of which tenant they would have been.
    pub tenant: Id,
    /// How much who may do.
    pub limits: Arc<Limits>,
    /// How many servers must tell their connections before a sweep counts.
    pub servers: usize,
}

/// Why an authz worker stopped; each needs somebody to look.
#[derive(Debug, thiserror::Error)]
pub enum AuthzError {
    /// NATS did not let it in.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The log cannot be read. One that was trimmed past this worker is read again from a checkpoint after a restart, with
    /// a look at every connection.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// There is nothing to begin with.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// A key is none.
    #[error("the key of the auth callout is unusable: {0}")]
    Key(#[from] nkeys::error::Error),
    /// NATS refused a subscription.
    #[error("authz cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// A part failed.
    #[error("a part of authz failed: {0}")]
    Part(#[from] tokio::task::JoinError),
}

/// Answers callouts and closes connections whose rights have changed, until it is told to stop.
///
/// `ready` becomes true once the view has caught up and callouts are answered.
pub async fn run(
    config: AuthzConfig,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> Result<(), AuthzError> {
    let core = connect(&config.core).await?;
    let shared = Shared::default();
    let (callout, connections) = shared.callout(&config, &core).await?;
    let caught_up = tokio::select! {
        caught_up = shared.followed.catch_up(&core, &config.log) => caught_up?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let sweeper = Sweeper {
        connections,
        issued: shared.issued.clone(),
        swept: shared.swept.clone(),
    };
    let mut parts: JoinSet<Result<(), AuthzError>> = JoinSet::new();
    let following = (shared.followed.clone(), sweeper, caught_up);
    parts.spawn(follow_and_sweep(
        core.clone(),
        config.clone(),
        following,
        shutdown.clone(),
    ));
    let register = (shared.followed.clone(), shared.sign_until.clone());
    parts.spawn(keep_registered(
        core.clone(),
        config.clone(),
        register,
        shutdown.clone(),
    ));
    parts.spawn(tell_refused(&callout, &config, (core.clone(), shutdown.clone())));
    let settle = settle_subject(&config.log.subjects, &config.worker);
    let settling = answer_settle(core, settle, shared.swept.clone(), shutdown.clone());
    parts.spawn(async { Ok(settling.await?) });
    let (verifier, until) = (config.verifier.clone(), shutdown.clone());
    parts.spawn(async move {
        verifier.keep_fresh(&until).await;
        until.cancelled().await;
        Ok(())
    });
    let may_sign = shared.sign_until.subscribe();
    parts.spawn(async move {
        if wait_until_registered(may_sign, &shutdown).await {
            serve(callout, ready, shutdown).await?;
        }
        Ok(())
    });
    while let Some(ended) = parts.join_next().await {
        ended??;
    }
    Ok(())
}

/// Tells the audit trail of refused logins.
fn tell_refused(
    callout: &Callout,
    config: &AuthzConfig,
    (core, shutdown): (async_nats::Client, CancellationToken),
) -> impl Future<Output = Result<(), AuthzError>> + use<> {
    let (refused, log) = (callout.refused.clone(), config.log.clone());
    async move {
        refused.keep_telling(&core, &log, &shutdown).await;
        Ok(())
    }
}

/// What the parts of a worker share.
struct Shared {
    followed: Arc<Followed>,
    issued: Arc<Issued>,
    swept: Arc<Swept>,
    /// Until when this worker may let somebody in.
    sign_until: watch::Sender<Instant>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            followed: Arc::new(Followed::new()),
            issued: Arc::default(),
            swept: Arc::new(Swept::new()),
            sign_until: watch::Sender::new(Instant::now()),
        }
    }
}

impl Shared {
    async fn callout(
        &self,
        config: &AuthzConfig,
        core: &async_nats::Client,
    ) -> Result<(Callout, Connections), AuthzError> {
        let client = connect(&config.auth).await?;
        let sys = connect(&config.sys).await?;
        let connections = || Connections::new(sys.clone(), config.servers);
        let (issuer, xkey) = keys(&config.issuer, &config.xkey)?;
        let sign_until = self.sign_until.subscribe();
        let callout = Callout {
            client,
            core: (core.clone(), config.log.clone()),
            followed: self.followed.clone(),
            issued: self.issued.clone(),
            verifier: config.verifier.clone(),
            refused: Arc::new(RefusedLogins::new(config.tenant.clone(), config.worker.clone())),
            gate: Gate::new(Arc::clone(&config.limits), connections()),
            subjects: config.log.subjects.clone(),
            issuer,
            xkey,
            registered: Box::new(move || Instant::now() < *sign_until.borrow()),
        };
        Ok((callout, connections()))
    }
}

type Following = (Arc<Followed>, Sweeper, (u64, ChangedAt));

async fn follow_and_sweep(
    core: async_nats::Client,
    config: AuthzConfig,
    (followed, sweeper, (end, changed)): Following,
    shutdown: CancellationToken,
) -> Result<(), AuthzError> {
    let (sender, changes) = mpsc::channel(CHANGES);
    let passed = followed.passed();
    let sweeping = async {
        tokio::select! {
            () = sweeper.sweep_the_past(&changed, Seq::end_of_frame(end)) => {}
            () = shutdown.cancelled() => return,
        }
        sweeper.run(changes, passed, shutdown.clone()).await;
    };
    let following = async {
        tokio::select! {
            followed = followed.follow(&core, &config.log, end, sender) => followed,
            () = shutdown.cancelled() => Ok(()),
        }
    };
    let ((), followed) = tokio::join!(sweeping, following);
    Ok(followed?)
}

async fn wait_until_registered(mut registered: watch::Receiver<Instant>, stop: &CancellationToken) -> bool {
    tokio::select! {
        valid = registered.wait_for(|until| Instant::now() < *until) => valid.is_ok(),
        () = stop.cancelled() => false,
    }
}

/// Keeps this worker in the register, so that whoever changes rights knows whom to ask. `until` says how long it may sign:
/// while it is surely registered, and its view was fresh a moment ago.
async fn keep_registered(
    core: async_nats::Client,
    config: AuthzConfig,
    (followed, until): (Arc<Followed>, watch::Sender<Instant>),
    shutdown: CancellationToken,
) -> Result<(), AuthzError> {
    let mut lease: Option<Lease> = None;
    loop {
        lease = match lease {
            None => register(&core, &config).await,
            Some(mut held) => match held.renew().await {
                Ok(true) => Some(held),
                Ok(false) => None,
                Err(error) => {
                    tracing::warn!(%error, "the registration was not renewed");
                    Some(held)
                }
            },
        };
        // Asked only now that it is registered: whoever changes rights from here on knows of this worker.
        let asked = Instant::now();
        if let Some(held) = &lease
            && followed.is_fresh(&core, &config.log).await
        {
            until.send_replace(held.valid_until().min(asked + FRESH_FOR));
        }
        let pause = if lease.is_some() {
            RENEW_EVERY
        } else {
            Duration::from_millis(100)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
    }
    if let Some(held) = lease {
        held.release().await;
    }
    Ok(())
}

async fn register(core: &async_nats::Client, config: &AuthzConfig) -> Option<Lease> {
    let leases = Leases::join(core, &config.log.subjects).await.ok()?;
    leases
        .try_take(&format!("{REGISTERED}{}", config.worker), config.worker.as_str())
        .await
        .ok()?
}
