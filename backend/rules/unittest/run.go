package unittest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/palliumhq/pallium/backend/rules"
)

// Result is the result of one test. It has failed if it has failures.
type Result struct {
	Name     string
	Failures []string
}

// Run runs the tests of a file with groups of rules. It returns an error if the tests could not be run.
func Run(ctx context.Context, f *File, groups []rules.Group, p parser.Parser) ([]Result, error) {
	var out []Result
	for i := range f.Tests {
		failures, err := runOne(ctx, f, &f.Tests[i], groups, p)
		if err != nil {
			return out, fmt.Errorf("%s: %w", f.Tests[i].Name, err)
		}
		out = append(out, Result{Name: f.Tests[i].Name, Failures: failures})
	}
	return out, nil
}

// world is the TSDB of one test, with its rules.
type world struct {
	*test
	parser parser.Parser
	fuzzy  bool
	db     *tsdb.DB
	engine *promql.Engine
	groups []*promrules.Group
	inputs []samples
}

// samples contains the samples of an input series that have not been written yet.
type samples struct {
	labels labels.Labels
	values []parser.SequenceValue
	next   time.Time // time of values[0]
}

func runOne(ctx context.Context, f *File, t *test, groups []rules.Group, p parser.Parser) (failures []string, err error) {
	w := &world{test: t, parser: p, fuzzy: f.FuzzyCompare}
	if err := w.parseInput(); err != nil {
		return nil, err
	}
	closeAll, err := w.open(time.Duration(f.EvaluationInterval))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	if err := w.load(ctx, f, groups); err != nil {
		return nil, err
	}
	return w.run(ctx, time.Duration(f.EvaluationInterval))
}

func (w *world) parseInput() error {
	for _, in := range w.InputSeries {
		ls, values, err := w.parser.ParseSeriesDesc(in.Series + " " + in.Values)
		if err != nil {
			return fmt.Errorf("input series %q: %w", in.Series, err)
		}
		w.inputs = append(w.inputs, samples{labels: ls, values: values, next: w.StartTimestamp.Time})
	}
	return nil
}

const (
	queryTimeout = 100 * time.Second
	maxSamples   = 50_000_000
	day          = int64(24 * time.Hour / time.Millisecond)
)

// open opens the TSDB and the engine.
func (w *world) open(interval time.Duration) (closeAll func() error, err error) {
	dir, err := os.MkdirTemp("", "pallium-rules-test-")
	if err != nil {
		return nil, fmt.Errorf("create a temporary directory: %w", err)
	}
	o := tsdb.DefaultOptions()
	o.MinBlockDuration, o.MaxBlockDuration, o.RetentionDuration = day, day, 0
	if w.db, err = tsdb.Open(dir, slog.New(slog.DiscardHandler), nil, o, tsdb.NewDBStats()); err != nil {
		return nil, errors.Join(fmt.Errorf("open a TSDB: %w", err), os.RemoveAll(dir))
	}
	w.engine = promql.NewEngine(promql.EngineOpts{
		MaxSamples: maxSamples, Timeout: queryTimeout, EnableAtModifier: true, EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: func(int64) int64 { return interval.Milliseconds() }, Parser: w.parser,
	})
	return func() error { return errors.Join(w.engine.Close(), w.db.Close(), os.RemoveAll(dir)) }, nil
}

// load builds the groups, in the order in which they are evaluated.
func (w *world) load(ctx context.Context, f *File, list []rules.Group) error {
	log := slog.New(slog.DiscardHandler)
	o := &promrules.ManagerOptions{QueryFunc: promrules.EngineQueryFunc(w.engine, w.db), AppendableV2: w.db, Context: ctx, Logger: log,
		NotifyFunc: func(context.Context, string, ...*promrules.Alert) {}, Metrics: promrules.NewGroupMetrics(nil)}
	for i := range list {
		g := &list[i]
		interval := time.Duration(w.Interval)
		if g.Interval > 0 {
			interval = time.Duration(g.Interval)
		}
		options := promrules.GroupOptions{Name: g.Name, File: g.Namespace, Interval: interval, Limit: g.Limit, Opts: o}
		if offset, ok := g.Offset(); ok {
			options.QueryOffset = &offset
		}
		for _, r := range g.Rules {
			expr, err := w.parser.ParseExpr(r.Expr)
			if err != nil {
				return fmt.Errorf("group %q: %w", g.Name, err)
			}
			ls := promrules.FromMaps(g.Labels, r.Labels)
			if r.Alert == "" {
				options.Rules = append(options.Rules, promrules.NewRecordingRule(r.Record, expr, ls))
				continue
			}
			options.Rules = append(options.Rules, promrules.NewAlertingRule(r.Alert, expr, time.Duration(r.For), time.Duration(r.KeepFiringFor), ls,
				labels.FromMap(r.Annotations), w.ExternalLabels, w.ExternalURL, true, log))
		}
		w.groups = append(w.groups, promrules.NewGroup(options))
	}
	slices.SortStableFunc(w.groups, func(a, b *promrules.Group) int {
		return cmp.Compare(slices.Index(f.GroupEvalOrder, a.Name()), slices.Index(f.GroupEvalOrder, b.Name()))
	})
	return nil
}

// run evaluates the rules until the last expectation, and returns the expectations that are not met.
func (w *world) run(ctx context.Context, interval time.Duration) ([]string, error) {
	var failures []string
	for at := w.StartTimestamp.Time; !at.After(w.end()); at = at.Add(interval) {
		if err := w.append(ctx, at); err != nil {
			return nil, err
		}
		for _, g := range w.groups {
			g.Eval(ctx, at)
			for _, r := range g.Rules() {
				if err := r.LastError(); err != nil {
					failures = append(failures, fmt.Sprintf("rule %q at %s: %v", r.Name(), at.Sub(w.StartTimestamp.Time), err))
				}
			}
		}
		if len(failures) > 0 {
			return failures, nil // later results would only show consequences of this failure
		}
		for i := range w.AlertRuleTests {
			t := &w.AlertRuleTests[i]
			if due := w.StartTimestamp.Add(time.Duration(t.EvalTime)); !due.Before(at) && due.Before(at.Add(interval)) {
				if text := w.compareAlerts(t); text != "" {
					failures = append(failures, text)
				}
			}
		}
	}
	for i := range w.PromQLExprTests {
		if text := w.compareExpr(ctx, &w.PromQLExprTests[i]); text != "" {
			failures = append(failures, text)
		}
	}
	return failures, nil
}

// append writes the input samples up to a time.
func (w *world) append(ctx context.Context, until time.Time) error {
	app := w.db.AppenderV2(ctx)
	for i := range w.inputs {
		in := &w.inputs[i]
		for len(in.values) > 0 && !in.next.After(until) {
			if v := in.values[0]; !v.Omitted {
				if _, err := app.Append(0, in.labels, 0, in.next.UnixMilli(), v.Value, nil, v.Histogram, storage.AOptions{}); err != nil {
					return errors.Join(fmt.Errorf("input series %s: %w", in.labels, err), app.Rollback())
				}
			}
			in.values, in.next = in.values[1:], in.next.Add(time.Duration(w.Interval))
		}
	}
	if err := app.Commit(); err != nil {
		return fmt.Errorf("write the input series: %w", err)
	}
	return nil
}

// Summary returns the results as text for the command line.
func Summary(results []Result) (text string, failed int) {
	var b strings.Builder
	for _, r := range results {
		if len(r.Failures) == 0 {
			fmt.Fprintf(&b, "  ok    %s\n", r.Name)
			continue
		}
		failed++
		fmt.Fprintf(&b, "  FAIL  %s\n", r.Name)
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "        %s\n", strings.ReplaceAll(f, "\n", "\n        "))
		}
	}
	return b.String(), failed
}
