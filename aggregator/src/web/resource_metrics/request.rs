//! What a request to `metrics.k8s.io` asks for. Pure.

use super::selector::{Fields, Selector};
use crate::auth::Resources;
use skpr_proto::Label;

pub(super) const GROUP: &str = "metrics.k8s.io";
pub(super) const VERSION: &str = "v1beta1";

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// What there is: the groups, the group, the kinds of objects in it.
    Groups,
    Group,
    Kinds,
    Objects(Resources),
}

impl Target {
    pub(super) fn parse(path: &str) -> Option<Target> {
        let rest = path.strip_prefix("/apis")?;
        let words: Vec<&str> = match rest.trim_end_matches('/') {
            "" => vec![],
            rest => rest.strip_prefix('/')?.split('/').collect(),
        };
        let name = |name: &str| (!name.is_empty()).then(|| Some(name.to_owned()));
        let namespace = |name: &str| Label::parse("namespace", name).ok().map(Some);
        let objects = match words.as_slice() {
            [] => return Some(Target::Groups),
            [GROUP] => return Some(Target::Group),
            [GROUP, VERSION] => return Some(Target::Kinds),
            [GROUP, VERSION, "nodes"] => Resources::Nodes { name: None },
            [GROUP, VERSION, "nodes", one] => Resources::Nodes { name: name(one)? },
            [GROUP, VERSION, "pods"] => Resources::Pods { namespace: None, name: None },
            [GROUP, VERSION, "namespaces", within, "pods"] => {
                Resources::Pods { namespace: namespace(within)?, name: None }
            }
            [GROUP, VERSION, "namespaces", within, "pods", one] => {
                Resources::Pods { namespace: namespace(within)?, name: name(one)? }
            }
            _ => return None,
        };
        Some(Target::Objects(objects))
    }
}

/// What a query asks for besides. What would only make an answer shorter, such as `limit`, is not heeded.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) labels: Selector,
    pub(super) fields: Fields,
    pub(super) watch: bool,
}

impl Query {
    pub(super) fn parse(query: &str) -> Result<Query, String> {
        let mut parsed = Query::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "labelSelector" => parsed.labels = Selector::parse(&value)?,
                "fieldSelector" => parsed.fields = Fields::parse(&value)?,
                "watch" => parsed.watch = !matches!(&*value, "0" | "false"),
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// Whether an answer in plain JSON is one that the caller takes: not a table, not protobuf alone.
pub(super) fn takes_json(accept: Option<&str>) -> bool {
    let takes = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        matches!(kind.as_str(), "application/json" | "application/*" | "*/*")
            && parts.all(|part| !part.starts_with("as=") && !matches!(part, "q=0" | "q=0.0"))
    };
    accept.is_none_or(|accept| accept.trim().is_empty() || accept.split(',').any(takes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let pods = |namespace: Option<&str>, name: Option<&str>| {
            let namespace = namespace.map(|name| Label::parse("namespace", name).unwrap());
            Some(Target::Objects(Resources::Pods { namespace, name: name.map(str::to_owned) }))
        };
        let nodes =
            |name: Option<&str>| Some(Target::Objects(Resources::Nodes { name: name.map(str::to_owned) }));
        for (path, expected) in [
            ("/apis", Some(Target::Groups)),
            ("/apis/", Some(Target::Groups)),
            ("/apis/metrics.k8s.io", Some(Target::Group)),
            ("/apis/metrics.k8s.io/v1beta1", Some(Target::Kinds)),
            ("/apis/metrics.k8s.io/v1beta1/nodes", nodes(None)),
            ("/apis/metrics.k8s.io/v1beta1/nodes/n1.example.com", nodes(Some("n1.example.com"))),
            ("/apis/metrics.k8s.io/v1beta1/pods", pods(None, None)),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/sites/pods", pods(Some("sites"), None)),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/sites/pods/web-0", pods(Some("sites"), Some("web-0"))),
            ("/apis/metrics.k8s.io/v1", None),
            ("/apis/custom.metrics.k8s.io/v1beta1", None),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/Sites/pods", None),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/sites/pods/a/log", None),
            ("/apisx", None),
            ("/openapi/v2", None),
        ] {
            assert_eq!(Target::parse(path), expected, "{path}");
        }
    }

    #[test]
    fn a_query_selects_and_what_it_cannot_say_is_an_error() {
        let query = Query::parse("labelSelector=app%3Dweb%2C%21canary&limit=500&pretty=true").unwrap();
        assert!(query.labels.matches(&[("app".to_owned(), "web".to_owned())].into()));
        assert!(!query.labels.matches(&Default::default()) && !query.watch);
        assert!(Query::parse("watch=true").unwrap().watch);
        for bad in ["labelSelector=a%3D%3D%3Db", "fieldSelector=status.phase%3DRunning"] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_json_is_given_to_who_takes_it() {
        for accept in [
            None,
            Some(""),
            Some("application/json"),
            Some("application/vnd.kubernetes.protobuf, */*"),
            Some("application/vnd.kubernetes.protobuf,application/json"),
            Some("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            Some("application/json; charset=utf-8"),
        ] {
            assert!(takes_json(accept), "{accept:?}");
        }
        for accept in [
            "application/vnd.kubernetes.protobuf",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            "text/html",
            "*/*;q=0",
        ] {
            assert!(!takes_json(Some(accept)), "{accept}");
        }
    }
}
