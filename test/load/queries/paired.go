package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// margin is the time by which the samples begin before the longest range of a query. Selectors with
// ranges and offsets, and queries that end in the past, read these earlier samples.
const margin = 7 * time.Hour

// recent is the length of the time range of the last samples: they are written to all processes,
// and stay in their heads.
const recent = 2 * time.Hour

// past is how long ago the second set of queries ends: everything they read is sealed.
const past = 6 * time.Hour

// trio has the three processes with the same samples.
type trio struct {
	front, plain, prom *target
	gen                *generator
	end                time.Time // of the samples
}

func (w *trio) all() []*target { return []*target{w.front, w.plain, w.prom} }

func (w *trio) stop() {
	for _, t := range w.all() {
		if t != nil {
			t.stop(syscall.SIGKILL)
		}
	}
}

// paired measures what o.parts names, except fairness, over one data set.
func paired(ctx context.Context, o options) (err error) {
	w := &trio{}
	defer w.stop()
	if err := w.prepare(ctx, o); err != nil {
		return err
	}
	for _, set := range []struct {
		part, name string
		end        time.Time
	}{{"now", "until now", w.end}, {"past", "until six hours ago", w.end.Add(-past)}} {
		if !o.has(set.part) {
			continue
		}
		if err := w.single(ctx, o, set.name, set.end); err != nil {
			return err
		}
	}
	if o.has("parts") {
		if err := w.parts(ctx, o); err != nil {
			return err
		}
	}
	if o.has("dashboard") {
		if err := w.dashboard(ctx, o); err != nil {
			return err
		}
	}
	if o.has("shards") {
		if err := w.shards(ctx, o); err != nil {
			return err
		}
	}
	if !o.has("trips") {
		return nil
	}
	if o.has("shards") {
		if err := w.front.start(); err != nil {
			return err
		}
	}
	if err := w.front.compact(); err != nil {
		return err
	}
	w.front.stop(syscall.SIGTERM)
	return trips(ctx, filepath.Join(w.front.dir, "data"), w.end.Add(-past), o.span)
}

// prepare writes the samples. All but the recent ones are sealed and compacted, and copied
// to the second Pallium.
func (w *trio) prepare(ctx context.Context, o options) (err error) {
	if w.front, err = newPallium("frontend", o.pallium, filepath.Join(o.dir, "front"), ""); err != nil {
		return err
	}
	if w.plain, err = newPallium("no frontend", o.pallium, filepath.Join(o.dir, "plain"), "frontend: {enabled: false}\n"); err != nil {
		return err
	}
	if w.prom, err = newPrometheus(o.prometheus, filepath.Join(o.dir, "prometheus")); err != nil {
		return err
	}
	if err := errors.Join(w.front.start(), w.prom.start()); err != nil {
		return err
	}
	if w.front.token, err = w.front.tenant("load"); err != nil {
		return err
	}
	w.plain.token = w.front.token
	w.end = time.Now().Truncate(time.Minute)
	w.gen = newGenerator(o.series, o.interval, w.end.Add(-o.span-margin))
	began := time.Now()
	if err := w.gen.fill(ctx, w.end.Add(-recent), true, w.front, w.prom); err != nil {
		return err
	}
	if err := w.front.compact(); err != nil {
		return err
	}
	w.front.stop(syscall.SIGTERM)
	if err := os.RemoveAll(filepath.Join(w.plain.dir, "data")); err != nil {
		return err
	}
	copied := exec.CommandContext(ctx, "cp", "-a", filepath.Join(w.front.dir, "data"), filepath.Join(w.plain.dir, "data"))
	if out, err := copied.CombinedOutput(); err != nil {
		return fmt.Errorf("copy the data directory: %w: %s", err, out)
	}
	if err := errors.Join(w.front.start(), w.plain.start()); err != nil {
		return err
	}
	if err := w.gen.fill(ctx, w.end, false, w.all()...); err != nil {
		return err
	}
	w.prom.settle(ctx)
	fmt.Printf("%d series at %s for %s, written in %s\n", o.series, o.interval, o.span+margin, time.Since(began).Round(time.Second))
	return nil
}

// restart kills both Palliums and starts them again. Without a clean stop, the recent
// samples are in their heads again.
func (w *trio) restart(ctx context.Context) error {
	for _, t := range []*target{w.front, w.plain} {
		t.stop(syscall.SIGKILL)
		if err := t.start(); err != nil {
			return err
		}
		t.settle(ctx)
	}
	return nil
}

// spans returns the ranges of the queries, up to the longest.
func spans(longest time.Duration) []time.Duration {
	var out []time.Duration
	for _, s := range []time.Duration{time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour} {
		if s <= longest {
			out = append(out, s)
		}
	}
	return out
}

// tally has the cost of a query in each of the processes.
type tally struct {
	first, again [3]cost
	alike        [2]alike // the worst comparison of each Pallium with Prometheus
}

func (c *cost) add(d cost, n int) {
	c.cpu += d.cpu / time.Duration(n)
	c.wall += d.wall / time.Duration(n)
}

// single sends each query to each process, once and again, and prints the costs.
func (w *trio) single(ctx context.Context, o options, name string, end time.Time) error {
	list := panels(spans(o.span)...)
	tallies := make([]tally, len(list))
	rejected := map[int]bool{} // by index: a process rejected the query because of its memory or a limit
	for round := range o.rounds {
		if err := w.restart(ctx); err != nil {
			return err
		}
		for _, t := range []*target{w.front, w.plain} {
			if round == 0 {
				defer t.profile(o.profile, filepath.Base(t.dir)+"-"+end.UTC().Format("1504"), 30)()
			}
		}
		for i, p := range list {
			if rejected[i] {
				continue
			}
			err := w.askAll(ctx, p.at(end), &tallies[i], round+i, o)
			if errors.Is(err, errRejected) {
				fmt.Printf("left out, %s: %v\n", short(p.span), err)
				rejected[i] = true
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	for i := len(list) - 1; i >= 0; i-- {
		if rejected[i] {
			list, tallies = slices.Delete(list, i, i+1), slices.Delete(tallies, i, i+1)
		}
	}
	report(name, list, tallies)
	return nil
}

// askAll sends a query to all processes in turns.
func (w *trio) askAll(ctx context.Context, q rangeQuery, t *tally, turn int, o options) error {
	targets := w.all()
	var answers [3][]byte
	for k := range 1 + o.repeats {
		for j := range targets {
			i := (j + turn + k) % len(targets)
			out, c, err := targets[i].measure(ctx, q)
			if err != nil {
				return err
			}
			if k == 0 {
				answers[i] = out
				t.first[i].add(c, o.rounds)
				continue
			}
			t.again[i].add(c, o.rounds*o.repeats)
			if same, err := agree(answers[i], out); err != nil {
				return fmt.Errorf("%s: %s: compare the answers: %w", targets[i].name, q.text, err)
			} else if same == different {
				return fmt.Errorf("%s: %s: a later answer differs from the first", targets[i].name, q.text)
			}
		}
	}
	for i := range 2 {
		same, err := agree(answers[i], answers[2])
		if err != nil {
			return err
		}
		t.alike[i] = max(t.alike[i], same)
	}
	return nil
}

// parts compares the CPU time of evaluating a query in parts with that of the whole: the
// same queries without the cache, again and again.
func (w *trio) parts(ctx context.Context, o options) error {
	targets := []*target{w.front, w.plain}
	for _, t := range targets {
		defer t.profile(o.profile, filepath.Base(t.dir)+"-parts", 30)()
	}
	fmt.Println("\nwithout the cache: CPU in ms in parts, as a whole, ratio")
	var sums [2]time.Duration
	for i, p := range panels(spans(o.span)...) {
		q := p.at(w.end.Add(-past))
		q.noStore = true
		var spent [2]time.Duration
		for k := range 2 * o.repeats {
			j := (i + k) % 2
			_, c, err := targets[j].measure(ctx, q)
			if err != nil {
				return err
			}
			spent[j] += c.cpu / time.Duration(o.repeats)
			sums[j] += c.cpu / time.Duration(o.repeats)
		}
		fmt.Printf("%-4s %7.1f %7.1f %5.2f %s\n", short(p.span), ms(spent[0]), ms(spent[1]), ratio(spent[0], spent[1]), p.text)
	}
	fmt.Printf("all  %7.1f %7.1f %5.2f\n", ms(sums[0]), ms(sums[1]), ratio(sums[0], sums[1]))
	return nil
}

func report(name string, list []panel, tallies []tally) {
	fmt.Printf("\nqueries %s: CPU and wall time in ms of Pallium with the frontend, without it, and Prometheus\n", name)
	fmt.Println("range  first CPU              again CPU              first wall             again wall             equal  query")
	totals := map[time.Duration]*tally{}
	whole := &tally{}
	for i, p := range list {
		t := &tallies[i]
		fmt.Printf("%-6s %s %s %s %s %-6s %s\n", short(p.span), times(t.first, cpuOf), times(t.again, cpuOf), times(t.first, wallOf),
			times(t.again, wallOf), equality(t.alike), p.text)
		if totals[p.span] == nil {
			totals[p.span] = &tally{}
		}
		for _, sum := range []*tally{totals[p.span], whole} {
			for k := range 3 {
				sum.first[k].add(t.first[k], 1)
				sum.again[k].add(t.again[k], 1)
			}
			for k := range 2 {
				sum.alike[k] = max(sum.alike[k], t.alike[k])
			}
		}
	}
	for _, p := range list {
		if sum := totals[p.span]; sum != nil {
			sum.print(short(p.span))
			delete(totals, p.span)
		}
	}
	whole.print("all")
	printWorst(list, tallies)
}

// printWorst prints the queries that need most CPU time when they are repeated.
func printWorst(list []panel, tallies []tally) {
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(tallies[b].again[0].cpu - tallies[a].again[0].cpu) })
	fmt.Println("most CPU when repeated:")
	for _, i := range order[:min(5, len(order))] {
		fmt.Printf("  %s ms  %s  %s\n", times(tallies[i].again, cpuOf), short(list[i].span), list[i].text)
	}
}

func (t *tally) print(name string) {
	fmt.Printf("total %-5s CPU first %s again %s ms; wall first %s again %s ms; %s\n", name, times(t.first, cpuOf), times(t.again, cpuOf),
		times(t.first, wallOf), times(t.again, wallOf), equality(t.alike))
	fmt.Printf("  CPU:  again/Prometheus %.3f, first/no frontend %.3f, first/Prometheus %.3f, no frontend/Prometheus %.3f\n",
		ratio(t.again[0].cpu, t.again[2].cpu), ratio(t.first[0].cpu, t.first[1].cpu), ratio(t.first[0].cpu, t.first[2].cpu),
		ratio(t.again[1].cpu, t.again[2].cpu))
	fmt.Printf("  wall: again/Prometheus %.3f, first/no frontend %.3f, first/Prometheus %.3f, no frontend/Prometheus %.3f\n",
		ratio(t.again[0].wall, t.again[2].wall), ratio(t.first[0].wall, t.first[1].wall), ratio(t.first[0].wall, t.first[2].wall),
		ratio(t.again[1].wall, t.again[2].wall))
}

func cpuOf(c cost) time.Duration  { return c.cpu }
func wallOf(c cost) time.Duration { return c.wall }

func times(list [3]cost, of func(cost) time.Duration) string {
	return fmt.Sprintf("%6.1f %6.1f %7.1f ", ms(of(list[0])), ms(of(list[1])), ms(of(list[2])))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// equality returns the result of the comparison of each Pallium with Prometheus, as one word if
// both results are the same.
func equality(list [2]alike) string {
	words := [...]string{"exact", "near", "DIFFER"}
	if list[0] == list[1] {
		return words[list[0]]
	}
	return words[list[0]] + "/" + words[list[1]]
}

func short(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return fmt.Sprintf("%dh", d/time.Hour)
}
