//! The right to read the metrics of everything there is, and the proof of having it.
//!
//! Monitoring must not go blind just when the API server is away: while Kubernetes cannot be asked, and only then, its last
//! yes counts for [`ALLOWANCE`](super::kubernetes::ALLOWANCE).

use super::{Auth, Bearer, Question, User};
use http::HeaderMap;
use skpr_proto::{ErrorKind, Failure};
use std::sync::Arc;

/// Proof that a caller may read metrics.
#[derive(Clone, Debug)]
pub struct Monitor(());

impl Auth {
    /// Whoever asks for metrics.
    pub async fn scraper(&self, headers: &HeaderMap) -> Result<Arc<User>, Failure> {
        let bearer = Bearer::from_headers(headers).map_err(without_hint)?;
        match self {
            Auth::Kubernetes(reviews) => reviews.scraper(&bearer).await,
            Auth::Tokens(tokens) => tokens.user(&bearer),
        }
        .map_err(without_hint)
    }

    pub async fn monitor(&self, user: &User) -> Result<Monitor, Failure> {
        if self.allows(user, Question::Monitor).await? {
            Ok(Monitor(()))
        } else {
            Err(Failure::new(ErrorKind::NotAllowed, "you may not read metrics"))
        }
    }
}

/// A program reads this, to which `skpr login` is no help.
fn without_hint(failure: Failure) -> Failure {
    Failure { hint: None, ..failure }
}
