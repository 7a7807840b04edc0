// Command cluster measures what a cluster costs compared with one process: CPU time
// per sample by role, and bytes sent to ingesters. It alternates between writing the
// same requests into `pallium all` and into a cluster on this machine.
//
//	make load-cluster
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/cluster"
)

var (
	series   = flag.Int("series", 40_000, "number of series")
	perPush  = flag.Int("push", 2_000, "series per request")
	scrapes  = flag.Int("scrapes", 20, "samples of each series in one round, 15 s apart")
	rounds   = flag.Int("rounds", 3, "rounds; each writes into both targets")
	parallel = flag.Int("parallel", 4, "concurrent requests")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "pallium-load-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := &wires{}
	c, err := cluster.New(cluster.Options{
		Dir:     filepath.Join(dir, "cluster"),
		Free:    true,
		Through: w.through,
		Config:  "self_monitoring: {disabled: true}\n",
		Binaries: cluster.Binaries{
			Pallium:  os.Getenv("PALLIUM"),
			Redis:    os.Getenv("REDIS_SERVER"),
			Bigtable: os.Getenv("BIGTABLE_EMULATOR_BIN"),
			GCS:      os.Getenv("FAKE_GCS_SERVER_BIN"),
		},
	})
	if err != nil {
		return err
	}
	defer func() { _ = c.Down(ctx) }()
	if err := c.Up(ctx); err != nil {
		return err
	}
	for _, limit := range []string{"samples_per_second=0", "requests_per_second=0", "bytes_per_second=0", "max_concurrent_requests=0"} {
		if _, err := c.Pallium(ctx, "limits", "set", cluster.Tenant, limit); err != nil {
			return err
		}
	}
	one, err := startOne(ctx, filepath.Join(dir, "one"))
	if err != nil {
		return err
	}
	defer one.stop()
	time.Sleep(2 * time.Second) // until all processes apply the limits
	m := measured{cpu: map[string]float64{}}
	at := time.Now().Add(-time.Duration(*rounds**scrapes*15) * time.Second)
	for range *rounds {
		if err := m.round(ctx, one, c, w, at); err != nil {
			return err
		}
		at = at.Add(time.Duration(*scrapes) * 15 * time.Second)
	}
	m.report()
	return nil
}

// measured contains the totals of all rounds.
type measured struct {
	cpu     map[string]float64 // seconds, by role; "one" is the single process
	samples int
	sent    int64 // bytes sent to ingesters
}

// round writes the same samples into the single process and into the cluster.
func (m *measured) round(ctx context.Context, one *one, c *cluster.Cluster, w *wires, at time.Time) error {
	before := one.cpu()
	if err := load(ctx, []string{one.edge}, one.token, at); err != nil {
		return err
	}
	m.cpu["one"] += one.cpu() - before
	procs := cpuOf(c)
	wire := w.bytes.Load()
	if err := load(ctx, c.Edges, c.Token, at); err != nil {
		return err
	}
	for name, v := range cpuOf(c) {
		m.cpu[role(name)] += v - procs[name]
	}
	m.sent += w.bytes.Load() - wire
	m.samples += *series * *scrapes
	return nil
}

func (m *measured) report() {
	samples := float64(m.samples)
	fmt.Printf("%d samples of %d series, %d per request\n", m.samples, *series, *perPush)
	var names []string
	for name := range m.cpu {
		names = append(names, name)
	}
	sort.Strings(names)
	sum := 0.0
	for _, name := range names {
		us := m.cpu[name] / samples * 1e6
		fmt.Printf("%-12s %6.3f µs CPU per sample, ratio to one process %.2f\n", name, us, m.cpu[name]/m.cpu["one"])
		if name != "one" {
			sum += m.cpu[name]
		}
	}
	fmt.Printf("%-12s %6.3f µs CPU per sample, ratio to one process %.2f\n", "cluster", sum/samples*1e6, sum/m.cpu["one"])
	fmt.Printf("sent to the three ingesters: %.1f bytes per sample, %.1f to each\n",
		float64(m.sent)/samples, float64(m.sent)/samples/3)
}

// role returns the role of a process by its name, without the number.
func role(name string) string { return strings.TrimRight(name, "-0123456789") }

// load writes a round and waits for the responses.
func load(ctx context.Context, edges []string, token string, at time.Time) error {
	type job struct{ from, scrape int }
	jobs := make(chan job)
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for i := range *parallel {
		all.Go(func() {
			for j := range jobs {
				t := at.Add(time.Duration(j.scrape) * 15 * time.Second).UnixMilli()
				if err := push(ctx, edges[i%len(edges)], token, j.from, t); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	for s := range *scrapes {
		for from := 0; from < *series; from += *perPush {
			jobs <- job{from, s}
		}
	}
	close(jobs)
	all.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func push(ctx context.Context, edge, token string, from int, t int64) error {
	req := prompb.WriteRequest{Timeseries: make([]prompb.TimeSeries, 0, *perPush)}
	for i := from; i < from+*perPush && i < *series; i++ {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Samples: []prompb.Sample{{Timestamp: t, Value: float64(t/1000%100_000) * float64(i%7+1)}},
			Labels: []prompb.Label{
				{Name: "__name__", Value: fmt.Sprintf("container_metric_%d_total", i%200)},
				{Name: "cluster", Value: "prod-eu-west-1"}, {Name: "container", Value: "app"},
				{Name: "instance", Value: fmt.Sprintf("10.%d.%d.7:9100", i/200%250, i/50_000)}, {Name: "job", Value: "kubelet"},
				{Name: "namespace", Value: fmt.Sprintf("team-%d", i/200%40)}, {Name: "node", Value: fmt.Sprintf("node-%03d", i/200%120)},
				{Name: "pod", Value: fmt.Sprintf("deployment-7c9d8f-%05x", i/200)}, {Name: "service", Value: "frontend"},
			},
		})
	}
	data, err := req.Marshal()
	if err != nil {
		return err
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, edge+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if err != nil {
		return err
	}
	hr.Header.Set("Authorization", "Bearer "+token)
	hr.Header.Set("Content-Encoding", "snappy")
	hr.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := http.DefaultClient.Do(hr)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("push: %d %s", resp.StatusCode, body)
	}
	return err
}

// cpuOf returns the CPU time of the cluster's Pallium processes in seconds, by name.
func cpuOf(c *cluster.Cluster) map[string]float64 {
	out := map[string]float64{}
	for _, p := range c.Processes {
		if p.Admin == "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(c.Dir(), p.Name+".pid"))
		if err == nil {
			out[p.Name] = cpu(strings.TrimSpace(string(data)))
		}
	}
	return out
}

// cpu returns the user and system time of a process in seconds; the kernel counts
// hundredths of a second.
func cpu(pid string) float64 {
	data, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100
}

// one is a single `pallium all` process.
type one struct {
	cmd         *exec.Cmd
	edge, token string
}

func startOne(ctx context.Context, dir string) (*one, error) {
	edge, admin := freeAddr(), freeAddr()
	file := dir + ".yaml"
	config := fmt.Sprintf("data_dir: %s\nlisten: %q\nadmin_listen: %q\nself_monitoring: {disabled: true}\nlimits: {samples_per_second: 0, "+
		"requests_per_second: 0, bytes_per_second: 0, max_concurrent_requests: 0}\n", dir, edge, admin)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	o := &one{cmd: exec.Command(os.Getenv("PALLIUM"), "all", "-config", file), edge: "http://" + edge}
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		time.Sleep(50 * time.Millisecond)
		resp, err := http.Get("http://" + admin + "/ready")
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			break
		}
	}
	for _, args := range [][]string{
		{"tenant", "create", "demo"},
		{"token", "issue", "-tenant", "demo", "-scopes", "metrics:write", "-name", "load", "-q"},
	} {
		cmd := exec.CommandContext(ctx, os.Getenv("PALLIUM"), append(args, "-admin-url", "http://"+admin)...)
		cmd.Env = append(os.Environ(), "PALLIUM_ADMIN_TOKEN_FILE="+filepath.Join(dir, "admin-token"))
		out, err := cmd.Output()
		if err != nil {
			o.stop()
			return nil, fmt.Errorf("pallium %s: %w", args[0], err)
		}
		o.token = strings.TrimSpace(string(out))
	}
	return o, nil
}

func (o *one) cpu() float64 { return cpu(strconv.Itoa(o.cmd.Process.Pid)) }

func (o *one) stop() {
	_ = o.cmd.Process.Signal(syscall.SIGTERM)
	_ = o.cmd.Wait()
}

func freeAddr() string {
	port, err := kit.FreePort()
	if err != nil {
		port = "0"
	}
	return "127.0.0.1:" + port
}

// wires counts the bytes sent to ingesters.
type wires struct{ bytes atomic.Int64 }

func (w *wires) through(name, address string) string {
	if !strings.HasPrefix(name, "ingester-") {
		return address
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return address
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", address)
			if err != nil {
				_ = c.Close()
				continue
			}
			go func() { _, _ = io.Copy(up, io.TeeReader(c, w)); _ = up.Close() }()
			go func() { _, _ = io.Copy(c, up); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

// Write counts the bytes of p.
func (w *wires) Write(p []byte) (int, error) {
	w.bytes.Add(int64(len(p)))
	return len(p), nil
}
