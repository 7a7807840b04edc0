// Command rules measures rulers: it starts a cluster with two of them and many tenants, each with groups of rules, and
// reports delays, CPU seconds and memory, with and without tenants whose rules never finish in time. At the end it
// deletes all tenants and reports what remains.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/test/kit/cluster"
)

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}

type options struct {
	tenants, groups, hopeless int
	interval, phase           time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.tenants, "tenants", 1000, "number of tenants")
	flag.IntVar(&o.groups, "groups", 20, "groups of each tenant")
	flag.IntVar(&o.hopeless, "hopeless", 1, "tenants with rules that are never finished in time, in the second phase")
	flag.DurationVar(&o.interval, "interval", time.Minute, "interval of groups")
	flag.DurationVar(&o.phase, "phase", 3*time.Minute, "duration of each phase")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "pallium-rules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.New(cluster.Options{Dir: filepath.Join(dir, "cluster"), Free: true, Rulers: 2,
		Config: "self_monitoring: {disabled: true}\n",
		Binaries: cluster.Binaries{Pallium: os.Getenv("PALLIUM"), Redis: os.Getenv("REDIS_SERVER"),
			Bigtable: os.Getenv("BIGTABLE_EMULATOR_BIN"), GCS: os.Getenv("FAKE_GCS_SERVER_BIN")}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down(ctx)) }()
	if err := c.Up(ctx); err != nil {
		return err
	}
	b := &bench{o: o, c: c, token: readToken(filepath.Join(dir, "cluster", "admin-token"))}
	base := b.read()
	began := time.Now()
	if err := b.load(ctx, 0, o.tenants, "vector(%d)"); err != nil {
		return err
	}
	fmt.Printf("%d tenants with %d groups each were loaded in %s\n", o.tenants, o.groups, time.Since(began).Round(time.Second))
	time.Sleep(o.interval)
	b.measure("all tenants")
	heavy := `count(sum by (a) (label_replace(vector(1), "a", "%d", "", "")) and on () (count_over_time(vector(1)[200h:1s]) > 0))`
	if err := b.load(ctx, o.tenants, o.hopeless, heavy); err != nil {
		return err
	}
	time.Sleep(o.interval)
	b.measure(fmt.Sprintf("with %d hopeless tenants", o.hopeless))
	for i := range o.tenants + o.hopeless {
		if err := b.admin(ctx, http.MethodDelete, fmt.Sprintf("/admin/v1/tenants/t%d?cascade=true", i), ""); err != nil {
			return err
		}
	}
	time.Sleep(45 * time.Second)
	end := b.read()
	for i := range base {
		const heap = "go_memstats_heap_inuse_bytes"
		fmt.Printf("ruler-%d before tenants: %.0f goroutines, %.0f MiB heap; ", i+1, base[i]["go_goroutines"], base[i][heap]/(1<<20))
		fmt.Printf("after their deletion: %.0f goroutines, %.0f MiB heap, %.0f groups\n", end[i]["go_goroutines"], end[i][heap]/(1<<20),
			end[i]["pallium_ruler_groups"])
	}
	return nil
}

func readToken(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

type bench struct {
	o     options
	c     *cluster.Cluster
	token string
}

// load creates n tenants, numbered from first on, each with groups of one rule. expr is a format
// with one verb, for the number of the group.
func (b *bench) load(ctx context.Context, first, n int, expr string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := first; i < first+n; i++ {
		g.Go(func() error {
			name := fmt.Sprint("t", i)
			if err := b.admin(ctx, http.MethodPost, "/admin/v1/tenants", fmt.Sprintf(`{"name":%q}`, name)); err != nil {
				return err
			}
			key, err := b.c.NewToken(ctx, name, "rules:write")
			if err != nil {
				return err
			}
			for j := range b.o.groups {
				text := fmt.Sprintf("name: g%d\ninterval: %s\nrules:\n- record: r\n  expr: '%s'\n  labels: {group: g%d}\n",
					j, b.o.interval, fmt.Sprintf(expr, j), j)
				if err := send(ctx, http.MethodPost, b.c.Edges[i%2]+"/api/v1/rules/n", key, text); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (b *bench) admin(ctx context.Context, method, path, body string) error {
	return send(ctx, method, b.c.AdminURL+path, b.token, body)
}

func send(ctx context.Context, method, url, token, body string) error {
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("If-Match", "*")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case resp.StatusCode/100 == 2:
			return nil
		case resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests || try > 20:
			return fmt.Errorf("%s %s: %d %s", method, url, resp.StatusCode, text)
		}
		time.Sleep(time.Second)
	}
}

// read returns the metrics of both rulers, by name and labels.
func (b *bench) read() [2]map[string]float64 {
	var out [2]map[string]float64
	for i := range out {
		out[i] = map[string]float64{}
		resp, err := client.Get(b.c.Process(fmt.Sprintf("ruler-%d", i+1)).Admin + "/metrics")
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		for line := range bytes.Lines(text) {
			name, value, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
			if v, err := strconv.ParseFloat(value, 64); ok && err == nil && name != "#" {
				out[i][name] = v
			}
		}
	}
	return out
}

// measure waits for a phase and prints what the rulers did in it.
func (b *bench) measure(what string) {
	before := b.read()
	time.Sleep(b.o.phase)
	after := b.read()
	fmt.Println(what)
	for i := range after {
		diff := func(name string) float64 { return after[i][name] - before[i][name] }
		done := diff("pallium_ruler_group_evaluations_done_total")
		const delay = "pallium_ruler_group_evaluation_delay_seconds"
		under := func(le string) float64 {
			return 100 * diff(delay+`_bucket{le="`+le+`"}`) / max(1, diff(delay+"_count"))
		}
		fmt.Printf("  ruler-%d: %.0f groups, %.1f evaluations/s, %.0f missed, %.0f late; began within 0.1 s: %.1f%%, 1 s: %.1f%%, 10 s: %.1f%%; "+
			"CPU %.2f cores (%.2f ms per evaluation), resident %.0f MiB, %.0f goroutines\n", i+1, after[i]["pallium_ruler_groups"],
			done/b.o.phase.Seconds(), diff("pallium_ruler_group_evaluations_missed_total"), diff("pallium_ruler_group_evaluations_late_total"),
			under("0.1"), under("1"), under("10"), diff("process_cpu_seconds_total")/b.o.phase.Seconds(),
			1000*diff("process_cpu_seconds_total")/max(1, done), after[i]["process_resident_memory_bytes"]/(1<<20), after[i]["go_goroutines"])
	}
}
