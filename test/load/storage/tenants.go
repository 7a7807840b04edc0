package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// oneSeries is a series of a generated tenant.
type oneSeries struct {
	labels labels.Labels
	metric string
	target int // the target whose scrapes contain the series
	kind   kind
	seed   uint64
}

// kinds has the kinds of 100 series: 60 are constant.
var kinds = func() (k [100]kind) {
	for i := range k {
		k[i] = constant
		switch {
		case i < 14:
			k[i] = counter
		case i < 20:
			k[i] = cpuSeconds
		case i < 28:
			k[i] = byteCounter
		case i < 34:
			k[i] = decimalGauge
		case i < 38:
			k[i] = memoryGauge
		case i < 40:
			k[i] = fullPrecision
		}
	}
	return k
}()

// spread returns the kind of the i-th series. Kinds are ordered so that neighbors differ.
func spread(i int) kind { return kinds[i*37%100] }

func sortSeries(list []oneSeries) []oneSeries {
	slices.SortFunc(list, func(a, b oneSeries) int {
		return cmp.Or(strings.Compare(a.metric, b.metric), labels.Compare(a.labels, b.labels))
	})
	return list
}

// nodeExporter creates about n series of hosts with 526 each.
func nodeExporter(n int) []oneSeries {
	type family struct {
		prefix  string
		metrics int
		label   string
		values  []string
	}
	families := []family{
		{"node_disk_", 17, "device", []string{"nvme0n1", "nvme1n1"}},
		{"node_network_", 28, "device", []string{"eth0", "lo", "docker0"}},
		{"node_filesystem_", 7, "mountpoint", []string{"/", "/boot", "/run", "/var/lib/data"}},
		{"node_softnet_", 5, "cpu", []string{"0", "1", "2", "3", "4", "5", "6", "7"}},
		{"node_memory_", 52, "", []string{""}},
		{"node_vmstat_", 30, "", []string{""}},
		{"node_netstat_", 44, "", []string{""}},
		{"go_", 40, "", []string{""}},
		{"node_misc_", 110, "", []string{""}},
	}
	modes := []string{"idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user"}
	var list []oneSeries
	rng := rand.New(rand.NewPCG(1, 1))
	for host := 0; len(list) < n; host++ {
		instance := fmt.Sprintf("10.%d.%d.%d:9100", 16+host%4, host/250%250, host%250)
		add := func(metric string, k kind, extra ...string) {
			pairs := append([]string{
				"__name__", metric, "instance", instance, "job", "node-exporter", "cluster", fmt.Sprintf("prod-%d", host%3),
			}, extra...)
			list = append(list, oneSeries{labels.FromStrings(pairs...), metric, host, k, rng.Uint64()})
		}
		for cpu := range 8 {
			for _, mode := range modes {
				k := cpuSeconds
				if mode == "irq" || mode == "nice" || mode == "steal" {
					k = constant
				}
				add("node_cpu_seconds_total", k, "cpu", fmt.Sprint(cpu), "mode", mode)
			}
		}
		i := 0
		for _, f := range families {
			for m := range f.metrics {
				for _, v := range f.values {
					if f.label == "" {
						add(fmt.Sprintf("%s%03d", f.prefix, m), spread(i))
					} else {
						add(fmt.Sprintf("%s%03d_total", f.prefix, m), spread(i), f.label, v)
					}
				}
				i++
			}
		}
	}
	return sortSeries(list)
}

// containerLabels is the form of cAdvisor's labels id, name and image in a
// Kubernetes-like tenant.
type containerLabels int

const (
	noContainers containerLabels = iota
	// realContainers are like cAdvisor's labels: `name` and `id` contain the container's
	// hash, `id` also the pod's UID, and `image` is the same for a whole deployment.
	realContainers
	// randomContainers have a random hash of 64 digits in each of the three labels: 96
	// bytes that cannot be compressed.
	randomContainers
)

// kubernetes creates about n series of 350 metrics with 11 labels and the name. Every metric has
// one series per container.
func kubernetes(n int, containers containerLabels) []oneSeries {
	rng := rand.New(rand.NewPCG(2, 2))
	random := func(n int, alphabet string) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return string(b)
	}
	const hexDigits, podAlphabet = "0123456789abcdef", "bcdfghjklmnpqrstvwxz2456789"
	const metrics = 350
	var list []oneSeries
	var app, set, image string
	for pod := 0; len(list) < n; pod++ {
		if pod%5 == 0 {
			app = fmt.Sprintf("%s-%s", []string{"api", "worker", "cache", "frontend", "billing"}[rng.IntN(5)], random(4, podAlphabet))
			set = random(10, podAlphabet)
			image = "registry.example.com/" + app + "@sha256:" + random(64, hexDigits)
		}
		name := app + "-" + set + "-" + random(5, podAlphabet)
		node := fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", pod%7, pod/20%200)
		pairs := []string{
			"cluster", "prod-eu-1", "namespace", "team-" + fmt.Sprint(pod/5%60), "pod", name, "container", app, "node", node,
			"instance", fmt.Sprintf("10.%d.%d.%d:8080", 64+rng.IntN(64), rng.IntN(256), rng.IntN(256)),
			"job", "apps/" + app, "endpoint", "http-metrics",
		}
		const slice = "/kubepods.slice/kubepods-burstable.slice/"
		switch id := random(64, hexDigits); containers {
		case noContainers:
			pairs = append(pairs, "service", app, "prometheus", "monitoring/k8s", "metrics_path", "/metrics")
		case realContainers:
			pairs = append(pairs, "name", id, "image", image, "id",
				slice+"kubepods-burstable-pod"+random(32, hexDigits)+".slice/cri-containerd-"+id+".scope")
		case randomContainers:
			pairs = append(pairs, "name", id, "image", "registry.example.com/"+app+"@sha256:"+random(64, hexDigits),
				"id", slice+"cri-containerd-"+random(64, hexDigits)+".scope")
		}
		for m := range metrics {
			metric := fmt.Sprintf("app_%s_%03d", []string{"http", "grpc", "queue", "db"}[m%4], m)
			list = append(list,
				oneSeries{labels.FromStrings(append([]string{"__name__", metric}, pairs...)...), metric, pod, spread(m), rng.Uint64()})
		}
	}
	return sortSeries(list)
}

// metricsOf creates metrics with the given numbers of series.
func metricsOf(sizes map[string]int) []oneSeries {
	rng := rand.New(rand.NewPCG(3, 3))
	var list []oneSeries
	for metric, n := range sizes {
		for i := range n {
			ls := labels.FromStrings("__name__", metric, "instance", fmt.Sprintf("10.1.%d.%d:9100", i/250, i%250), "job", "load", "zone",
				fmt.Sprint(i%5))
			list = append(list, oneSeries{ls, metric, i, spread(i), rng.Uint64()})
		}
	}
	return sortSeries(list)
}
