//! Samples, from an agent's report to the CLI.

use super::*;
use skpr_proto::v1::metrics_client::MetricsClient;
use skpr_proto::v1::{AgentReport, DescribeRequest, ListRequest, PodSample, Sample, Usage, UsageRequest};
use tonic::Code;

/// A report of a round at a second of the agent's clock, in which each pod has used so many seconds of CPU.
pub(super) fn round(second: u64, pods: &[(&str, u64)]) -> AgentReport {
    let pod = |(uid, seconds): &(&str, u64)| {
        let total = Sample {
            cpu_nanos: Some(seconds * 1_000_000_000),
            cpu_share_millicores: Some(500),
            memory_working_set_bytes: Some(64 << 20),
            memory_limit_bytes: Some(256 << 20),
            oom_kills: Some(3),
            ..Sample::default()
        };
        PodSample { uid: (*uid).to_owned(), total: Some(total), ..PodSample::default() }
    };
    let usage = Usage {
        monotonic_nanos: second * 1_000_000_000,
        interval_millis: 5000,
        node: None,
        pods: pods.iter().map(pod).collect(),
    };
    AgentReport { usage: Some(usage), ..AgentReport::default() }
}

pub(super) async fn report(world: &World, report: AgentReport) {
    world.agents().await.report(tokio_stream::once(report)).await.unwrap();
}

async fn ask(world: &World, token: Token, request: UsageRequest) -> Result<v1::UsageResponse, Status> {
    let mut client = MetricsClient::with_interceptor(world.channel().await, token);
    Ok(client.read(request).await?.into_inner())
}

/// But for its age, which each question finds another.
fn ageless(now: Option<v1::UsageNow>) -> Option<v1::UsageNow> {
    now.map(|now| v1::UsageNow { age_millis: None, ..now })
}

fn of(name: &str) -> UsageRequest {
    UsageRequest { environment: environment(name), ..UsageRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_agents_report_is_what_users_see() {
    let world = World::with_pods().await;
    let admin = world.token("admin.token");
    assert_eq!(ask(&world, admin.clone(), of("dev")).await.unwrap().whole.unwrap().now, None);
    // The other pod runs on another node: this agent has no say in it.
    report(&world, round(100, &[("u1", 10), ("u2", 10)])).await;
    report(&world, round(105, &[("u1", 12), ("u2", 99)])).await;

    let since = Some(v1::Instant { unix_nanos: 0 });
    let asked = UsageRequest { per_instance: true, since, interval_seconds: 86_400 * 30, ..of("dev") };
    let found = ask(&world, admin.clone(), asked).await.unwrap();
    assert_eq!((found.sample_interval_millis, found.namespace.as_deref()), (5000, Some("sites")));
    let whole = found.whole.unwrap();
    let now = ageless(whole.now).unwrap();
    assert_eq!((now.cpu_millicores, now.cpu_share_millicores), (Some(400.0), Some(500)));
    assert_eq!((now.memory_working_set_bytes, now.memory_limit_bytes), (Some(64 << 20), Some(256 << 20)));
    // The sum lacks an instance that serves, and says so.
    assert_eq!((now.instances, now.oom_kills, now.stale, now.missing), (1, Some(3), false, 1));
    let last = whole.points.last().unwrap();
    assert_eq!((last.instances, last.working_set_bytes), (1, Some(64 << 20)), "{:?}", whole.points);
    let names: Vec<_> = found.instances.iter().map(|series| series.instance.as_str()).collect();
    assert_eq!(names, ["web-1", "web-2"]);
    // The other is there, and nothing is known of it.
    let of_one = v1::UsageNow { missing: 0, ..now };
    assert_eq!(
        (ageless(found.instances[0].now), found.instances[1].now),
        (Some(of_one), Some(v1::UsageNow::default()))
    );
    assert_eq!(found.instances[0].points.len(), whole.points.len());

    let mut environments = world.environments(admin.clone()).await;
    let list = environments.list(ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(ageless(list.environments[0].usage), Some(now));
    assert_eq!(
        (ageless(list.environments[0].instance[0].usage), list.environments[0].instance[1].usage),
        (Some(of_one), None)
    );
    let described = environments.describe(DescribeRequest { environment: environment("dev") }).await;
    assert_eq!(ageless(described.unwrap().into_inner().summary.unwrap().usage), Some(now));
    let one = UsageRequest { instances: vec!["web-2".into()], ..of("dev") };
    assert_eq!(ask(&world, admin, one).await.unwrap().whole.unwrap().now, None);
    let metrics = monitoring::metrics(&world).await;
    for line in
        ["skpr_usage_samples_total{outcome=\"taken\"} 2", "skpr_usage_samples_total{outcome=\"foreign\"} 2"]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_over_time_is_for_those_with_the_right_to_it() {
    let world = World::with_pods().await;
    let other = world.new_token("other", "web/prod:list");
    let forbidden = ask(&world, other.clone(), of("dev")).await.unwrap_err();
    let unknown = ask(&world, other, of("nowhere")).await.unwrap_err();
    assert_eq!((forbidden.code(), unknown.code()), (Code::PermissionDenied, Code::PermissionDenied));
    assert_eq!(forbidden.message().replace("web/dev", "web/nowhere"), unknown.message());
    ask(&world, world.new_token("reader", "web/dev:metrics"), of("dev")).await.unwrap();
    let seer = ask(&world, world.new_token("seer", "web/dev:list"), of("dev")).await.unwrap_err();
    assert!(seer.message().contains("you may see `web/dev`, and not read its metrics"), "{seer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_makes_too_much_says_what_would_do() {
    let world = World::with_pods().await;
    let admin = world.token("admin.token");
    let instant = |unix_nanos| Some(v1::Instant { unix_nanos });
    let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap();
    let day = 86_400_000_000_000;
    let many =
        UsageRequest { since: instant(now - day), until: instant(now), interval_seconds: 1, ..of("dev") };
    let refused = ask(&world, admin.clone(), many.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(hint(&refused).contains("--interval 44s"), "{refused:?}");
    let enough = UsageRequest { interval_seconds: 44, ..many.clone() };
    assert!(ask(&world, admin.clone(), enough).await.unwrap().whole.unwrap().points.len() > 1900);
    let usual = UsageRequest { interval_seconds: 0, ..many.clone() };
    let usual = ask(&world, admin.clone(), usual).await.unwrap();
    assert_eq!(usual.interval_seconds, 900);
    for (since, until) in
        [(instant(2), instant(1)), (None, instant(1)), (instant(i64::MIN), instant(i64::MAX))]
    {
        let odd = UsageRequest { since, until, interval_seconds: 0, ..many.clone() };
        assert_eq!(ask(&world, admin.clone(), odd).await.unwrap_err().code(), Code::InvalidArgument);
    }
}
