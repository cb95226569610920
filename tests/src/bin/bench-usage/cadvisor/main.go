// Command cadvisor is cAdvisor's engine and its /metrics, and nothing else: its own program is in a module that
// `go install` does not find. CPU and memory only, so that it reads what skpr's agent reads.
package main

import (
	"flag"
	"net/http"
	"strings"
	"time"

	"github.com/google/cadvisor/lib/cache/memory"
	"github.com/google/cadvisor/lib/container"
	"github.com/google/cadvisor/lib/manager"
	"github.com/google/cadvisor/lib/metrics"
	"github.com/google/cadvisor/lib/model"
	"github.com/google/cadvisor/lib/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "where /metrics is served")
	interval := flag.Duration("interval", 5*time.Second, "how often each cgroup is read")
	only := flag.String("only", "", "the cgroups whose path begins so")
	flag.Parse()
	// Its own flags, which say how often it reads, and that nothing else is read.
	flag.Set("housekeeping_interval", interval.String())
	flag.Set("docker_only", "true")

	kinds := container.MetricSet{container.CpuUsageMetrics: struct{}{}, container.MemoryUsageMetrics: struct{}{}}
	steady := false
	pace := manager.HousekeepingConfig{Interval: interval, AllowDynamic: &steady}
	// Two minutes of samples, as by default.
	cache := memory.New(2*time.Minute, nil)
	engine, err := manager.New(cache, sysfs.NewRealSysFs(), pace, kinds, strings.Split(*only, ","), nil, "", 0)
	if err != nil {
		klog.Fatal(err)
	}
	if err := engine.Start(); err != nil {
		klog.Fatal(err)
	}
	options := model.RequestOptions{IdType: model.TypeName, Count: 1, Recursive: true}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewPrometheusCollector(engine, nil, kinds, clock.RealClock{}, options))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	klog.Fatal(http.ListenAndServe(*listen, nil))
}
