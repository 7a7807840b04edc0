package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/fsck"
	"github.com/palliumhq/pallium/migrations"
)

// Migrate brings the configured row store to this binary's version and prints its status.
// With statusOnly it changes nothing.
func Migrate(ctx context.Context, cfg Config, o Options, statusOnly bool, out io.Writer) error {
	e, done, err := migrationEnv(ctx, &cfg, o, !statusOnly)
	if err != nil {
		return err
	}
	if !statusOnly {
		err = migrations.Up(ctx, e)
	}
	if err != nil {
		return errors.Join(err, done())
	}
	st, err := migrations.Look(ctx, e)
	if err = errors.Join(err, done()); err != nil {
		return err
	}
	tables := "complete"
	if !st.Tables {
		tables = "missing or incomplete"
	}
	fmt.Fprintf(out, "tables: %s\nversion: %d of %d", tables, st.Version, st.Latest)
	if st.Binary != "" {
		fmt.Fprintf(out, " (by Pallium %s)", st.Binary)
	}
	fmt.Fprintln(out)
	for _, s := range st.Steps {
		mark := "to do"
		if s.Done {
			mark = "done"
		}
		fmt.Fprintf(out, "step %d  %-5s  %s\n", s.Number, mark, s.Name)
	}
	if statusOnly && st.Version > st.Latest {
		return fmt.Errorf("%w: run Pallium %s or newer", migrations.ErrNewer, st.Binary)
	}
	return nil
}

// VerifyOptions are the options of the verify command.
type VerifyOptions struct {
	Tenants []tenant.ID // empty means all tenants with data in the store
	Data    bool        // read and decode all samples
	Rebuild bool        // rebuild the index first
}

// ErrFindings is returned by Verify if the store is inconsistent.
var ErrFindings = errors.New("the store is not consistent")

// Verify checks the configured long-term store, after rebuilding its index if v.Rebuild is
// set. It prints findings to out.
func Verify(ctx context.Context, cfg Config, o Options, v VerifyOptions, out io.Writer, progress *progressBar) (err error) {
	if err := cfg.Store.checkRole(All, false); err != nil {
		return err
	}
	e, done, err := migrationEnv(ctx, &cfg, o, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	r, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := migrations.Check(ctx, r); err != nil {
		return err
	}
	obj, err := openObjects(ctx, &cfg)
	if err != nil {
		return err
	}
	obj = cfg.Store.retriedObjects(obj, nil)
	defer func() { err = errors.Join(err, obj.Close()) }()
	ix, err := index.New(index.Options{Rows: r})
	if err != nil {
		return err
	}
	s, err := store.Open(store.Options{Index: ix, Objects: obj, Scratch: filepath.Join(cfg.DataDir, "scratch-verify"), Logger: o.Logger,
		// Rebuilt rows get no expiry: the sweep applies the tenant's retention.
		Retention: func(context.Context, tenant.ID) (time.Duration, error) { return 0, nil },
		Deleted:   func(context.Context, tenant.ID) (bool, error) { return false, nil }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	check := fsck.New(s)
	tenants, err := v.tenants(ctx, check)
	if err != nil {
		return err
	}
	if v.Rebuild {
		if err := rebuildIndex(ctx, check, tenants, out, progress); err != nil {
			return err
		}
	}
	report, err := check.Verify(ctx, tenants,
		fsck.Options{Data: v.Data, Finding: func(where string, err error) { fmt.Fprintf(out, "%s: %v\n", where, err) },
			Progress: progress.of("verify")})
	progress.end()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d tenants, %d days, %d packs with %d bytes, %d series, %d samples, %d cells of the index: %d findings\n",
		len(tenants), report.Days, report.Packs, report.Bytes, report.Series, report.Samples, report.Cells, report.Findings)
	if err := listAsides(ctx, s, out); err != nil {
		return err
	}
	if report.Findings > 0 {
		return ErrFindings
	}
	return nil
}

// tenants returns the tenants to be checked. A selected tenant without data is an error, because
// its name may be mistyped.
func (v *VerifyOptions) tenants(ctx context.Context, check *fsck.Checker) ([]tenant.ID, error) {
	all, err := check.Tenants(ctx)
	if err != nil || len(v.Tenants) == 0 {
		return all, err
	}
	for _, t := range v.Tenants {
		if !slices.Contains(all, t) {
			return nil, fmt.Errorf("tenant %q has no data in the store", t)
		}
	}
	return v.Tenants, nil
}

// rebuildIndex rebuilds the index and prints a summary.
func rebuildIndex(ctx context.Context, check *fsck.Checker, tenants []tenant.ID, out io.Writer, progress *progressBar) error {
	report, err := check.RebuildIndex(ctx, tenants, progress.of("rebuild the index"))
	progress.end()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "index rebuilt: %d days, %d manifests recovered, %d packs, %d cells; read %d of %d bytes\n",
		report.Days, report.Recovered, report.Packs, report.Cells, report.Read, report.Bytes)
	return nil
}

// listAsides prints the series that are set aside.
func listAsides(ctx context.Context, s *store.Store, out io.Writer) error {
	asides, err := s.Asides(ctx)
	if err != nil {
		return err
	}
	for i := range asides {
		a := &asides[i]
		fmt.Fprintf(out, "set aside by ingester %s: tenant %s, day %s, window %d: %d series, %d samples, %d bytes: %s\n",
			a.Ingester, a.Tenant, series.DateOf(a.Window.Day), a.Window.Number, a.Series, a.Samples, a.Bytes, a.Reason)
	}
	return nil
}
