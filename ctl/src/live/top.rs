//! `c4ctl top`: jobs and suspects live, on the whole terminal.
//!
//! One task asks the controller once a second and hands over what it heard (`watch`: only the newest counts); a thread
//! waits for keys (a channel of 16; one that waits in vain is the person's). What is shown is decided in [`model`] and
//! drawn in [`screen`], both without a terminal.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use c4_proto::v1;
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        event::{self, Event, KeyEventKind},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use tokio::sync::{mpsc, watch};

use crate::{
    asked,
    cli::{Cli, Color},
    client::Client,
    contexts::{self, Target},
    failure::{Exit, Failure},
};

mod model;
mod screen;

use model::{Heard, Model, Wish};

/// The controller is asked this often.
const PACE: Duration = Duration::from_secs(1);
/// Keys that may wait.
const KEYS: usize = 16;

pub(super) fn run(cli: &Cli) -> Result<Exit, Failure> {
    let target = contexts::target(cli)?;
    asked::runtime()?.block_on(live(&target, asked::timeout(cli), cli.color))
}

async fn live(target: &Target, timeout: Duration, color: Color) -> Result<Exit, Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "`top` needs a terminal; `c4ctl jobs --watch` and `c4ctl findings --watch` do not".into(),
        ));
    }
    // An address that is none is said on the screen it was typed on.
    let url = Client::connect(&target.controller, &target.credentials, timeout).await?.url;
    let colorful =
        color != Color::Never && (color == Color::Always || std::env::var_os("NO_COLOR").is_none());
    let (tell, heard) = watch::channel(Heard::default());
    let asking = tokio::spawn(ask(target.clone(), timeout, tell));
    let guard = Guard::enter()?;
    let result = show(Model::new(url), heard, colorful).await;
    drop(guard);
    asking.abort();
    result.map(|()| Exit::Fine)
}

async fn show(mut model: Model, mut heard: watch::Receiver<Heard>, colorful: bool) -> Result<(), Failure> {
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let mut keys = keys();
    loop {
        terminal.draw(|frame| screen::draw(&mut model, frame, colorful))?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if model.key(key) == Wish::Leave {
                        return Ok(());
                    }
                }
                // The terminal has another size, or got the focus: it is drawn anew.
                Some(_) => {}
                None => return Ok(()),
            },
            changed = heard.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let newest = heard.borrow_and_update().clone();
                model.hear(newest);
            }
        }
    }
}

/// Keys, from a thread: a terminal cannot be waited for otherwise. It ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (send, receive) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if send.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receive
}

async fn ask(target: Target, timeout: Duration, tell: watch::Sender<Heard>) {
    let mut pace = tokio::time::interval(PACE);
    loop {
        pace.tick().await;
        match answer(&target, timeout).await {
            Ok(heard) => tell.send_replace(heard),
            Err(failure) => {
                tell.send_modify(|heard| heard.trouble = Some(failure.to_string()));
                continue;
            }
        };
    }
}

async fn answer(target: &Target, timeout: Duration) -> Result<Heard, Failure> {
    let client = Client::connect(&target.controller, &target.credentials, timeout).await?;
    let mut calls = client.calls.clone();
    let status = client.call(timeout, "", calls.get_status(v1::GetStatusRequest {})).await?;
    let jobs = client.call(timeout, "", calls.list_jobs(v1::ListJobsRequest {})).await?.jobs;
    let request = v1::ListFindingsRequest { job: String::new(), include_cleared: false };
    let found = client.call(timeout, "", calls.list_findings(request)).await?.findings;
    let findings = super::findings::reports(found)?;
    Ok(Heard { status, jobs, findings, trouble: None })
}

/// The terminal as this needs it, and back again however it ends.
struct Guard;

impl Guard {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        let guard = Self;
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nothing can be done if it does not go back.
        let _ = execute!(io::stdout(), LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
