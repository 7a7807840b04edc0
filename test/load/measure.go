package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const senders = 4

// feed sends one round to all targets, alternating between them body by body.
func feed(ctx context.Context, g *generator, targets []*target, t time.Time, n int) error {
	bodies := g.bodies(t, n)
	contentType := "application/x-protobuf"
	version := "0.1.0"
	if g.version == 2 {
		contentType, version = "application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"
	}
	work := make(chan []byte)
	failed := make(chan error, senders)
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for body := range work {
				for _, tg := range targets {
					_, err := tg.do(ctx, http.MethodPost, tg.push, contentType, body,
						"Content-Encoding", "snappy", "X-Prometheus-Remote-Write-Version", version)
					if err != nil {
						failed <- err
						for range work { // drain, so that the sender can finish
						}
						return
					}
				}
			}
		})
	}
	for _, b := range bodies {
		work <- b
	}
	close(work)
	wg.Wait()
	close(failed)
	return <-failed
}

// measured calls fn, which feeds the targets, and reports the cost for each target.
func measured(_ context.Context, what string, targets []*target, fn func() (samples int, err error)) error {
	for _, t := range targets {
		t.since, t.busy = t.cpu(), 0
	}
	n, err := fn()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d samples\n", what, n)
	var first float64
	for i, t := range targets {
		cpu := (t.cpu() - t.since).Seconds()
		perSample := cpu / float64(n) * 1e6
		if i == 0 {
			first = perSample
		}
		ratio := ""
		if i > 0 {
			ratio = fmt.Sprintf("   pallium/prometheus = %.2f", first/perSample)
		}
		fmt.Printf("  %-11s %.3f µs CPU per sample, %.0f samples per CPU second, %.0f samples/s while busy (%d senders)%s\n",
			t.name, perSample, float64(n)/cpu, float64(n)/(t.busy.Seconds()/senders), senders, ratio)
	}
	return nil
}

// reportMemory prints the anonymous memory of the processes, and their live heap after
// a garbage collection.
func reportMemory(targets []*target, series int) {
	fmt.Printf("memory with %d active series\n", series)
	var first [2]float64
	for i, t := range targets {
		rss := float64(t.rss()) / float64(series)
		heap := float64(t.heap()) / float64(series)
		if i == 0 {
			first = [2]float64{rss, heap}
		}
		ratio := ""
		if i > 0 {
			ratio = fmt.Sprintf("   pallium/prometheus = %.2f and %.2f", first[0]/rss, first[1]/heap)
		}
		fmt.Printf("  %-11s %.0f bytes per series resident, %.0f live heap%s\n", t.name, rss, heap, ratio)
	}
}

// heap returns the live heap in bytes after a garbage collection, which a heap profile
// triggers.
func (t *target) heap() int64 {
	base, token := strings.TrimSuffix(t.query, "/prometheus"), ""
	if t.admin != "" {
		base = t.admin
		data, _ := os.ReadFile(filepath.Join(t.dataDir, "admin-token"))
		token = strings.TrimSpace(string(data))
	}
	get := func(path string) string {
		req, err := http.NewRequest(http.MethodGet, base+path, nil)
		if err != nil {
			return ""
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		return string(data)
	}
	get("/debug/pprof/heap?gc=1")
	for _, line := range strings.Split(get("/metrics"), "\n") {
		var v float64
		if n, _ := fmt.Sscanf(line, "go_memstats_heap_alloc_bytes %g", &v); n == 1 {
			return int64(v)
		}
	}
	return 0
}

// queries runs aggregations over the queried metric on each target in turn.
func queries(ctx context.Context, targets []*target, end time.Time, hours int) error {
	all := time.Duration(hours) * time.Hour
	list := []struct {
		name, expr string
		span, step time.Duration
	}{
		{"1 h, sum by (job) of rate", `sum by (job) (rate(http_requests_total[5m]))`, time.Hour, 30 * time.Second},
		{"1 h, sum by (namespace)", `sum by (namespace) (http_requests_total)`, time.Hour, 30 * time.Second},
		{fmt.Sprintf("%d h, sum by (job) of rate", hours), `sum by (job) (rate(http_requests_total[5m]))`, all, 5 * time.Minute},
		{fmt.Sprintf("%d h, sum by (namespace)", hours), `sum by (namespace) (http_requests_total)`, all, 5 * time.Minute},
	}
	for _, q := range list {
		if q.span == 0 {
			continue
		}
		fmt.Printf("query: %s\n", q.name)
		answers := make([]string, len(targets))
		params := url.Values{
			"query": {q.expr},
			"start": {fmt.Sprint(end.Add(-q.span).Unix())},
			"end":   {fmt.Sprint(end.Unix())},
			"step":  {fmt.Sprint(q.step.Seconds())},
		}
		var firstCPU, firstLatency float64
		for i, t := range targets {
			const times = 5
			var took []time.Duration
			before := t.cpu()
			for range times {
				begin := time.Now()
				out, err := t.do(ctx, http.MethodPost, t.query+"/api/v1/query_range", "application/x-www-form-urlencoded", []byte(params.Encode()))
				if err != nil {
					return err
				}
				took = append(took, time.Since(begin))
				answers[i] = string(out)
			}
			slices.Sort(took)
			cpu, median := (t.cpu()-before).Seconds()/times, took[times/2].Seconds()
			ratio := ""
			if i == 0 {
				firstCPU, firstLatency = cpu, median
			} else {
				ratio = fmt.Sprintf("   pallium/prometheus = %.2f and %.2f", firstCPU/cpu, firstLatency/median)
			}
			fmt.Printf("  %-11s %.3f s CPU, %.3f s median latency%s\n", t.name, cpu, median, ratio)
		}
		if answers[0] != answers[1] {
			return errors.New("the targets returned different results")
		}
		fmt.Printf("  same result, %d bytes\n", len(answers[0]))
	}
	return nil
}

// reportDisk prints the size of the data directories. Prometheus' head is still in its
// WAL and head chunks, so the comparison is only a rough one.
func reportDisk(targets []*target) error {
	fmt.Println("\non disk")
	for _, t := range targets {
		sizes := map[string]int64{}
		err := filepath.WalkDir(t.dataDir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(t.dataDir, path)
			parts := strings.SplitN(rel, string(filepath.Separator), 3)
			key := parts[0]
			if len(parts) == 3 && key == "ingester" {
				key += "/" + parts[1]
			}
			if len(key) == 26 { // a block's ULID
				key = "blocks"
			}
			sizes[key] += info.Size()
			return nil
		})
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(sizes)) {
			fmt.Printf("  %-11s %-20s %8.1f MiB\n", t.name, key, float64(sizes[key])/(1<<20))
		}
	}
	return nil
}
