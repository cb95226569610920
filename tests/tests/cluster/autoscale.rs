//! Instances come and go with the load, by what skpr tells Kubernetes of their CPU and nobody else.

use super::deploy::Shop;
use super::shop::{ask, front, manifest};
use serde_json::Value;
use skpr_tests::eventually;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The autoscaler looks every 15 s, and waits in the test cluster for 15 s before it scales down.
const TIMEOUT: Duration = Duration::from_secs(240);
/// Some thirteen requests a second in all, at some 30 ms of CPU time each: five instances with a share of 50m have more
/// than 70 % of that to do, and the machine little.
const CALLERS: usize = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// Callers that ask for something that takes CPU time; they stop when this is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let caller = || {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let ok = ask(address, "/cgi-bin/burn").is_ok();
                    answered.fetch_add(u32::from(ok), Ordering::Relaxed);
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let callers = (0..CALLERS).map(|_| caller()).collect();
        Load { stop, answered, callers }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers.drain(..) {
            caller.join().ok();
        }
    }
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn instances_follow_the_load_with_no_metrics_server() {
    let shop = Shop::together();
    let (user, site) = (&shop.user, &shop.site);
    manifest(user, "  prod: {instances: {min: 2, max: 5, cpu: 70%}}\n").unwrap();
    user.skpr(&["deploy", "prod", "v1"]).unwrap().success().unwrap();
    let service = shop.skpr.namespace();
    eventually("metrics.k8s.io is served from here", TIMEOUT, || {
        let path = ".spec.service.namespace} {.status.conditions[?(@.type=='Available')].status";
        let found = service.field("apiservice/v1beta1.metrics.k8s.io", path)?;
        anyhow::ensure!(found == format!("{} True", service.name()), "it is `{found}`");
        Ok(Some(()))
    })
    .unwrap();
    let listed = || -> anyhow::Result<Value> {
        let stdout = user.skpr(&["list", "-o", "json"])?.success()?.stdout;
        Ok(serde_json::from_str::<Value>(&stdout)?[0].take())
    };
    let ready = |count: u64| {
        eventually(&format!("{count} instances are ready"), TIMEOUT, || {
            let listed = listed()?;
            anyhow::ensure!(listed["ready"] == count && listed["instances"] == count, "{listed}");
            Ok(Some(()))
        })
        .unwrap();
    };
    let hpa = || site.kubectl(&["get", "hpa", "shop-prod"]).unwrap();
    let top = || site.kubectl(&["top", "pods"]).unwrap();
    ready(2);
    eventually("the autoscaler knows what is used", TIMEOUT, || {
        let path = ".status.currentMetrics[0].resource.current.averageUtilization";
        Ok(Some(site.field("hpa/shop-prod", path)?).filter(|found| !found.is_empty()))
    })
    .unwrap();
    eprintln!("at rest\n{}{}", hpa(), top());

    let address = front(site, "shop-prod").unwrap();
    let began = Instant::now();
    let load = Load::start(address);
    eventually("a third instance", TIMEOUT, || {
        Ok((site.pods("skpr.io/environment=prod")?.len() > 2).then_some(()))
    })
    .unwrap();
    eprintln!("from the load to the first new instance: {:.1?}", began.elapsed());
    ready(5);
    let (whole, top) = (began.elapsed(), top());
    eprintln!(
        "from the load to five that are ready: {whole:.1?}, {:?} requests\n{}{top}",
        load.answered,
        hpa()
    );
    let list = user.skpr(&["list"]).unwrap().success().unwrap().stdout;
    eprintln!("{list}");
    assert!(list.contains("5/2–5") || list.contains("5/2-5"), "{list}");
    assert!(top.lines().filter(|line| line.starts_with("shop-prod-")).count() >= 4, "{top}");

    drop(load);
    let ended = Instant::now();
    ready(2);
    eprintln!("from the end of the load back to two: {:.1?}\n{}", ended.elapsed(), hpa());
    let events = user.skpr(&["events", "prod", "--since", "1h"]).unwrap().success().unwrap().stdout;
    eprintln!("{events}");
    assert!(
        events.contains("5 instances are to run") && events.contains("2 instances are to run"),
        "{events}"
    );
}
