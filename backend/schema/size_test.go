package schema

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// cluster is the metrics of a Kubernetes-like tenant.
type cluster struct {
	metrics []clusterMetric
}

type clusterMetric struct {
	name   string
	series int
	labels map[string][]string // distinct values
}

// kubernetes returns a tenant with about 300,000 series and 350 metrics: containers of 5,000 pods on 150
// nodes, with typical pod names of deployments.
func kubernetes(seed uint64) cluster {
	rng := rand.New(rand.NewPCG(seed, 0))
	const podAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	random := func(n int, alphabet string) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return string(b)
	}
	var pods, uids, ips, containers, nodes, namespaces []string
	for i := range 60 {
		namespaces = append(namespaces, fmt.Sprintf("team-%s-%d", random(4, podAlphabet), i%7))
	}
	for i := range 150 {
		nodes = append(nodes, fmt.Sprintf("ip-10-%d-%d-%d.eu-central-1.compute.internal", i%16, rng.IntN(256), rng.IntN(256)))
	}
	for i := range 400 {
		app := fmt.Sprintf("%s-%s", []string{"api", "worker", "cache", "frontend", "billing", "search", "ingest", "auth"}[i%8], random(4, podAlphabet))
		containers = append(containers, app)
		replicaSet := random(10, podAlphabet)
		for range 12 + i%2 {
			pods = append(pods, app+"-"+replicaSet+"-"+random(5, podAlphabet))
			uids = append(uids, fmt.Sprintf("%s-%s-4%s-a%s-%s", random(8, "0123456789abcdef"), random(4, "0123456789abcdef"), random(3, "0123456789abcdef"), random(3, "0123456789abcdef"), random(12, "0123456789abcdef")))
			ips = append(ips, fmt.Sprintf("10.%d.%d.%d:%d", 64+rng.IntN(64), rng.IntN(256), rng.IntN(256), 8080+i%4))
		}
	}
	var c cluster
	add := func(name string, series int, l map[string][]string) {
		c.metrics = append(c.metrics, clusterMetric{name, series, l})
	}
	for i := range 40 { // metrics with one series per container
		add(fmt.Sprintf("container_%s_%02d_total", []string{"cpu", "memory", "fs", "network"}[i%4], i), len(pods), map[string][]string{"pod": pods, "container": containers, "namespace": namespaces, "node": nodes, "id": uids})
	}
	for i := range 12 {
		add(fmt.Sprintf("kube_pod_%02d_status", i), len(pods), map[string][]string{"pod": pods, "uid": uids, "namespace": namespaces, "phase": {"Failed", "Pending", "Running"}})
	}
	for i := range 200 { // metrics of applications, each in some pods
		from := rng.IntN(len(pods) - 200)
		add(fmt.Sprintf("app_%s_%03d_seconds", []string{"http_request", "grpc_server", "queue", "db_query"}[i%4], i), 200, map[string][]string{"pod": pods[from : from+200], "instance": ips[from : from+200], "namespace": namespaces[i%60 : i%60+1], "job": {"apps"}})
	}
	for i := range 98 {
		add(fmt.Sprintf("node_%03d_bytes", i), len(nodes), map[string][]string{"node": nodes, "instance": nodes, "job": {"node-exporter"}})
	}
	slices.SortFunc(c.metrics, func(a, b clusterMetric) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return c
}

// index encodes the names and label values of the tenant as one pack.
func (c *cluster) index(t testing.TB, codec *Codec) (names []byte, values [][]byte, series int) {
	t.Helper()
	builders := map[string]*ValuesBuilder{}
	var n Names
	for i, m := range c.metrics {
		n.Metrics = append(n.Metrics, Metric{Name: m.name, Series: m.series, Pages: (m.series + 2047) / 2048})
		series += m.series
		for label, list := range m.labels {
			if builders[label] == nil {
				builders[label] = NewValuesBuilder(label)
			}
			for _, v := range list {
				builders[label].Add(v, i)
			}
		}
	}
	for label, b := range builders {
		buckets, firsts, err := b.Buckets(codec)
		if err != nil {
			t.Fatal(err)
		}
		n.Labels = append(n.Labels, Label{Name: label, Values: b.Len(), Buckets: firsts})
		values = append(values, buckets...)
	}
	slices.SortFunc(n.Labels, func(a, b Label) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return n.Encode(codec), values, series
}

// TestIndexSize checks the size of the names and label values of a Kubernetes-like tenant against the
// limit in the design.
func TestIndexSize(t *testing.T) {
	c := kubernetes(1)
	names, values, series := c.index(t, testCodec(t))
	total := len(names)
	for _, v := range values {
		total += len(v)
	}
	per := float64(total) / float64(series)
	t.Logf("%d metrics, %d series: names %d bytes, %d buckets of values %d bytes, %.2f bytes per series-day", len(c.metrics), series, len(names), len(values), total-len(names), per)
	if per > 1.4 {
		t.Errorf("names and values take %.2f bytes per series-day, more than 1.4", per)
	}
}

func testCodec(t testing.TB) *Codec {
	t.Helper()
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}
