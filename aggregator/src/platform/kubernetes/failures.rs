//! What a caller is told when Kubernetes does not do what was asked. Pure.

use skpr_proto::{ErrorKind, Failure};

/// One sentence with what Kubernetes said; the rest of the error repeats itself.
pub(super) fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => super::facts::short(&status.message).to_string(),
        kube::Error::Service(cause) => super::facts::short(&format!("{cause}")).to_string(),
        other => super::facts::short(&other.to_string()).to_string(),
    }
}

/// The failure for a call that changes something.
pub(super) fn failure(error: &kube::Error) -> Failure {
    let said = sentence(error);
    let kube::Error::Api(status) = error else {
        tracing::warn!(error = error as &dyn std::error::Error, "the api server did not answer");
        return Failure::new(ErrorKind::Unavailable, "the Kubernetes API server does not answer")
            .with_hint("try again; what runs goes on running");
    };
    match status.code {
        403 if said.contains("exceeded quota") => {
            Failure::new(ErrorKind::Failed, format!("the namespace's quota does not allow it: {said}"))
        }
        403 => Failure::new(ErrorKind::Failed, format!("Kubernetes does not allow skpr to do it: {said}"))
            .with_hint("ask who installed skpr whether its rights are complete"),
        404 => Failure::new(ErrorKind::NotFound, format!("it is not there any more: {said}"))
            .with_hint("skpr list"),
        400 | 422 => {
            Failure::new(ErrorKind::InvalidConfiguration, format!("Kubernetes does not take it: {said}"))
        }
        409 => Failure::new(ErrorKind::Unavailable, "others change it all the time").with_hint("try again"),
        429 | 500.. => Failure::new(ErrorKind::Unavailable, format!("Kubernetes is in trouble: {said}"))
            .with_hint("try again; what runs goes on running"),
        _ => Failure::new(ErrorKind::Failed, format!("Kubernetes refused: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_answer_says_what_it_means() {
        for (code, message, kind, part) in [
            (422, "spec: min is at most max", ErrorKind::InvalidConfiguration, "min is at most max"),
            (403, "exceeded quota: tight", ErrorKind::Failed, "quota"),
            (403, "forbidden", ErrorKind::Failed, "does not allow skpr"),
            (409, "the object has been modified", ErrorKind::Unavailable, "others change it"),
            (503, "etcd\u{1b}", ErrorKind::Unavailable, "Kubernetes is in trouble: etcd"),
            (404, "namespaces \"x\" not found", ErrorKind::NotFound, "\"x\" not found"),
        ] {
            let status = json!({"status": "Failure", "message": message, "reason": "", "code": code});
            let error = kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()));
            let failure = failure(&error);
            assert_eq!(failure.kind, kind, "{code}");
            assert!(failure.message.contains(part) && !failure.message.contains('\u{1b}'), "{failure}");
        }
        let away = failure(&kube::Error::Service("connection refused".into()));
        assert_eq!(away.kind, ErrorKind::Unavailable);
    }
}
