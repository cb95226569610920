//! Calls that change something: they go on when their caller is gone, so that nothing is left half asked for.
//!
//! * One task owns them all, and when the aggregator stops it ends what has begun and takes nothing new.
//! * Only what is before the platform's own durable write happens here; what comes after that needs nobody.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use skpr_proto::{ErrorKind, Failure};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

/// Changes under way at once: each asks the platform for a few answers of some 10 ms, so these are more than a thousand
/// a second. Whoever comes when all are taken is told to come again.
const UNDER_WAY: usize = 64;
/// Changes that wait to be taken up, which takes no time at all unless [`UNDER_WAY`] of them are.
const QUEUE: usize = 64;

type Work = BoxFuture<'static, ()>;

/// Takes calls over from their callers.
#[derive(Clone, Debug)]
pub(crate) struct Lasting(mpsc::Sender<Work>);

/// The calls that were taken over. Whoever holds it carries them out with [`Carrier::run`].
pub(crate) struct Carrier(mpsc::Receiver<Work>);

pub(crate) fn lasting() -> (Lasting, Carrier) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Lasting(sender), Carrier(receiver))
}

impl Lasting {
    /// Carries the call out to its end, and gives its answer to whoever still wants it.
    pub(super) async fn carry<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let busy = || Failure::new(ErrorKind::Unavailable, "the aggregator takes no further changes now");
        let (reply, answer) = oneshot::channel();
        // Whoever asked may be gone.
        let work = async move { drop(reply.send(call.await)) }.boxed();
        self.0.try_send(work).map_err(|_full_or_stopping| Status::from(busy()))?;
        answer.await.unwrap_or_else(|_panicked| {
            Err(Failure::new(ErrorKind::Failed, "the call ended abnormally; the aggregator's log says why")
                .into())
        })
    }
}

impl Carrier {
    /// Works until `ending`, and then until all that was taken over has ended.
    pub(crate) async fn run(mut self, ending: CancellationToken) {
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = ending.cancelled() => break,
                Some(ended) = under_way.join_next() => report(ended),
                work = self.0.recv(), if under_way.len() < UNDER_WAY => match work {
                    Some(work) => drop(under_way.spawn(work)),
                    None => break,
                },
            }
        }
        self.0.close();
        while let Some(work) = self.0.recv().await {
            under_way.spawn(work);
        }
        while let Some(ended) = under_way.join_next().await {
            report(ended);
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a change ended abnormally");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_goes_on_without_its_caller_and_a_stop_waits_for_it() {
        let (lasting, carrier) = lasting();
        let ending = CancellationToken::new();
        let mut carrying = JoinSet::new();
        carrying.spawn(carrier.run(ending.clone()));
        let (begun, has_begun) = oneshot::channel();
        let (go, may_go) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let call = async move {
            begun.send(()).unwrap();
            may_go.await.unwrap();
            done.send(()).unwrap();
            Ok(Response::new(()))
        };
        let mut caller = Box::pin(lasting.carry(call));
        assert!(caller.as_mut().now_or_never().is_none());
        has_begun.await.unwrap();
        drop(caller);
        ending.cancel();
        tokio::task::yield_now().await;
        assert!(carrying.try_join_next().is_none(), "it waits");
        go.send(()).unwrap();
        is_done.await.unwrap();
        carrying.join_next().await.unwrap().unwrap();
        let refused = lasting.carry(async { Ok(Response::new(())) }).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_answer_and_takes_no_other_with_it() {
        let (lasting, carrier) = lasting();
        let mut carrying = JoinSet::new();
        carrying.spawn(carrier.run(CancellationToken::new()));
        let panics = async { panic!("as it does in this test") };
        assert_eq!(lasting.carry::<()>(panics).await.unwrap_err().code(), tonic::Code::Internal);
        assert_eq!(lasting.carry(async { Ok(Response::new(7)) }).await.unwrap().into_inner(), 7);
    }
}
