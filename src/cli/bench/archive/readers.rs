//! What readers ask of the archive, one question after the other, over NATS as a bridge asks it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::Client;
use async_nats::service::NATS_SERVICE_ERROR;
use natterjack_nats_config::contract::{
    DEFAULT_HISTORY_LIMIT, DEFAULT_SEARCH_LIMIT, HISTORY_VERB, HistoryPage, HistoryQuery, Id, ROOMS_VERB, RoomsPage,
    RoomsQuery, SEARCH_VERB, SearchPage, SearchQuery, SearchRoom, Seq,
};
use natterjack_nats_config::tail::Log;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::made::{self, Made, READER};
use crate::cli::verify::bar;

/// How long the service may take to be there.
const THERE_WITHIN: Duration = Duration::from_secs(10);
/// Once in so many questions all rooms are asked for what is unread, and the most frequent word is searched: these take longer.
const HEAVY: u32 = 10;
/// After so many searches for it that got no answer in time it is left alone.
const GIVE_UP: usize = 3;

pub(super) struct Readers {
    client: Client,
    log: Log,
    rooms: Vec<Id>,
    last: Seq,
}

/// How long answers took.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) page: Times,
    pub(super) word: Times,
    pub(super) frequent: Times,
    pub(super) chinese: Times,
    pub(super) unread: Times,
}

#[derive(Default)]
pub(super) struct Times {
    all: Vec<Duration>,
    /// Those that ended without an answer, by the client's or the service's limit of ten seconds.
    unanswered: usize,
}

impl Readers {
    pub(super) fn new(client: Client, log: Log, made: &Made) -> Self {
        Self {
            client,
            log,
            rooms: made.rooms(),
            last: made.last_message(),
        }
    }

    /// How far the index of words is.
    pub(super) async fn indexed(&self) -> anyhow::Result<Seq> {
        let until = Instant::now() + THERE_WITHIN;
        loop {
            // Of no room, nothing is searched for.
            match self.search_in(Vec::new(), "x".to_owned()).await {
                Ok(page) => return Ok(page.indexed),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Asks `questions` questions of each kind, in turns; a tenth of that of the heavy ones.
    pub(super) async fn ask(&self, questions: u32) -> anyhow::Result<Answers> {
        let mut rng = StdRng::seed_from_u64(2);
        let mut answers = Answers::default();
        let bar = bar("questions asked of each kind")?;
        bar.set_length(questions.into());
        let mut found = (0, 0);
        for number in 0..questions {
            answers.page.add(self.page(&mut rng)).await?;
            let (word, chinese) = (made::asked(&mut rng), made::asked_in_chinese(&mut rng));
            found.0 += usize::from(!answers.word.add(self.search(word)).await?.results.is_empty());
            found.1 += usize::from(!answers.chinese.add(self.search(chinese)).await?.results.is_empty());
            if number % HEAVY == 0 {
                self.frequent(&mut answers.frequent).await?;
                answers.unread.add(self.unread()).await?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let half = usize::try_from(questions / 2)?;
        ensure!(
            found.0 > half && found.1 > half,
            "of {questions} words {found:?} were found"
        );
        Ok(answers)
    }

    /// The word that most messages have. What takes too long is told, and is no failure of the measurement.
    async fn frequent(&self, times: &mut Times) -> anyhow::Result<()> {
        if times.unanswered == GIVE_UP {
            return Ok(());
        }
        match times.add(self.search(made::frequent())).await {
            Ok(page) => ensure!(page.more, "the most frequent word is hardly found"),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a search");
                times.unanswered += 1;
            }
        }
        Ok(())
    }

    /// A page anywhere in a room.
    async fn page(&self, rng: &mut StdRng) -> anyhow::Result<()> {
        let room = self.rooms.get(rng.random_range(0..self.rooms.len()));
        let query = HistoryQuery {
            tenant: "main".parse()?,
            room: room.context("there are no rooms")?.clone(),
            before: Some(Seq(rng.random_range(self.last.0 / 2..=self.last.0))),
            after: None,
            limit: DEFAULT_HISTORY_LIMIT,
            pinned: false,
            thread: None,
            visible_from: Seq::ZERO,
        };
        let page: HistoryPage = self.request(HISTORY_VERB, &query).await?;
        ensure!(!page.messages.is_empty(), "a page has nothing on it");
        Ok(())
    }

    async fn search(&self, words: String) -> anyhow::Result<SearchPage> {
        self.search_in(self.in_all_rooms(), words).await
    }

    async fn search_in(&self, rooms: Vec<SearchRoom>, words: String) -> anyhow::Result<SearchPage> {
        let query = SearchQuery {
            tenant: "main".parse()?,
            q: words,
            rooms,
            from: None,
            limit: DEFAULT_SEARCH_LIMIT,
        };
        self.request(SEARCH_VERB, &query).await
    }

    /// Where all rooms stand for somebody who has read half of everything.
    async fn unread(&self) -> anyhow::Result<()> {
        let query = RoomsQuery {
            tenant: "main".parse()?,
            user: READER.parse()?,
            rooms: self.in_all_rooms(),
        };
        let page: RoomsPage = self.request(ROOMS_VERB, &query).await?;
        let all = page.rooms.len() == self.rooms.len();
        ensure!(
            all && page
                .rooms
                .iter()
                .all(|room| room.unread > 0 && room.unread < room.last.n),
            "somebody has read half of everything, and the archive says otherwise"
        );
        Ok(())
    }

    fn in_all_rooms(&self) -> Vec<SearchRoom> {
        let whole = |id: &Id| SearchRoom {
            id: id.clone(),
            visible_from: Seq::ZERO,
        };
        self.rooms.iter().map(whole).collect()
    }

    async fn request<T: DeserializeOwned>(&self, verb: &str, query: &impl Serialize) -> anyhow::Result<T> {
        let subject = self.log.subjects.store_service(verb);
        let answer = self
            .client
            .request(subject, serde_json::to_vec(query)?.into())
            .await
            .with_context(|| format!("{verb} was not answered"))?;
        let text = String::from_utf8_lossy(&answer.payload);
        let refused = answer
            .headers
            .is_some_and(|headers| headers.get(NATS_SERVICE_ERROR).is_some());
        ensure!(!refused, "{verb} was refused: {text}");
        Ok(serde_json::from_slice(&answer.payload)?)
    }
}

impl Times {
    async fn add<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let begun = Instant::now();
        let done = work.await;
        self.all.push(begun.elapsed());
        done
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times = self.all.clone();
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        write!(f, "{:.1?}, {:.1?}", at(50), at(99))?;
        match self.unanswered {
            0 => Ok(()),
            some => write!(f, " ({some} of {} without an answer)", times.len()),
        }
    }
}
