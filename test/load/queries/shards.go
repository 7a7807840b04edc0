package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// shardCounts are the measured values of frontend.max_shards.
var shardCounts = []int{1, 2, 4}

// shards compares the cost of queries with different values of frontend.max_shards, without the
// results cache. Each Pallium has a copy of the data.
func (w *trio) shards(ctx context.Context, o options) error {
	w.front.stop(syscall.SIGKILL)
	w.plain.stop(syscall.SIGKILL)
	var targets []*target
	defer func() {
		for _, t := range targets {
			t.stop(syscall.SIGKILL)
		}
	}()
	for _, n := range shardCounts {
		t, err := newPallium(fmt.Sprintf("%d shards", n), o.pallium, filepath.Join(o.dir, fmt.Sprint("shards-", n)),
			fmt.Sprintf("frontend: {cache: false, max_shards: %d}\n", n))
		if err != nil {
			return err
		}
		copied := exec.CommandContext(ctx, "cp", "-a", filepath.Join(w.front.dir, "data"), filepath.Join(t.dir, "data"))
		if out, err := copied.CombinedOutput(); err != nil {
			return fmt.Errorf("copy the data directory: %w: %s", err, out)
		}
		if err := t.start(); err != nil {
			return err
		}
		t.token = w.front.token
		t.settle(ctx)
		targets = append(targets, t)
	}
	fmt.Printf("\nshards, without the cache: CPU and wall time in ms with at most %v shards\n", shardCounts)
	totals := map[time.Duration]*[3]cost{}
	for i, p := range panels(spans(o.span)...) {
		costs, same, err := compareShards(ctx, targets, p.at(w.end), i, o.repeats)
		if errors.Is(err, errRejected) {
			fmt.Printf("left out, %s: %v\n", short(p.span), err)
			continue
		}
		if err != nil {
			return err
		}
		fmt.Printf("%-4s %s %s %-6s %s\n", short(p.span), times(costs, cpuOf), times(costs, wallOf), equality([2]alike{same, same}), p.text)
		if totals[p.span] == nil {
			totals[p.span] = &[3]cost{}
		}
		for k := range costs {
			totals[p.span][k].add(costs[k], 1)
		}
	}
	for _, span := range spans(o.span) {
		if t := totals[span]; t != nil {
			fmt.Printf("total %-4s CPU %s wall %s; wall of 2 / 1 shards %.2f, of 4 / 1 %.2f; CPU %.2f, %.2f\n", short(span), times(*t, cpuOf),
				times(*t, wallOf), ratio(t[1].wall, t[0].wall), ratio(t[2].wall, t[0].wall), ratio(t[1].cpu, t[0].cpu), ratio(t[2].cpu, t[0].cpu))
		}
	}
	return nil
}

// compareShards sends a query to each Pallium in turns. The result `same` is the worst comparison of
// an answer with the answer of the first Pallium.
func compareShards(ctx context.Context, targets []*target, q rangeQuery, turn, repeats int) (costs [3]cost, same alike, err error) {
	var answers [3][]byte
	for k := range repeats {
		for j := range targets {
			i := (j + turn + k) % len(targets)
			out, c, err := targets[i].measure(ctx, q)
			if err != nil {
				return costs, same, err
			}
			costs[i].add(c, repeats)
			answers[i] = out
		}
	}
	for i := 1; i < len(targets); i++ {
		one, err := agree(answers[0], answers[i])
		if err != nil {
			return costs, same, err
		}
		same = max(same, one)
	}
	return costs, same, nil
}
