package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/admin"
)

func (c *Commands) flush(w http.ResponseWriter, r *http.Request, q url.Values) error {
	do, err := c.o.Backend.Flush(r.Context(), q.Get("instance"))
	if err != nil {
		return c.failed(r, err, "flush failed")
	}
	return c.begin(w, r, q, "flush failed; no data is lost: samples that were not sealed stay in memory and in the write-ahead log", do)
}

func (c *Commands) compact(w http.ResponseWriter, r *http.Request, q url.Values) error {
	expire := q.Get("expire")
	if expire != "" && expire != "all" {
		return admin.Fail(http.StatusBadRequest, "expire", `expire must be "all"`)
	}
	do, err := c.o.Backend.Compact(r.Context(), q.Get("instance"), expire == "all")
	if err != nil {
		return c.failed(r, err, "compaction failed")
	}
	return c.begin(w, r, q, "compaction failed; no data is lost: packs that were not compacted stay as they are", do)
}

func (c *Commands) acceptLoss(w http.ResponseWriter, r *http.Request, q url.Values) error {
	day, err := dayOf(q)
	if err != nil {
		return err
	}
	n, err := c.o.Backend.AcceptLoss(r.Context(), day)
	if err != nil {
		return c.failed(r, err, fmt.Sprintf("not all losses of day %d were accepted: repeat the command", day))
	}
	if n == 0 {
		return admin.WithHint(admin.NotFound("day", "no samples of day %d are lost", day), "GET %s/losses lists the windows with lost samples",
			admin.Root)
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "intents": n})
	return nil
}

func (c *Commands) erasure(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	id, err := tenant.ParseID(admin.Param(r, "tenant"))
	if err != nil {
		return admin.Fail(http.StatusBadRequest, "tenant", "%s", err)
	}
	e, err := c.o.Backend.Erasure(r.Context(), id)
	switch {
	case err != nil:
		return c.failed(r, err, "could not read the report of the erasure")
	case e == nil:
		return admin.Fail(http.StatusNotFound, "tenant", "tenant %q is not a deleted tenant", id)
	}
	admin.WriteJSON(w, http.StatusOK, e)
	return nil
}

// cursor returns the sort key of a record. The cursor of a page is the sort key of its last
// record.
func (k *AsideKey) cursor() string {
	return fmt.Sprintf("%09d/%02d/%s/%s", k.Day, k.Window, k.Ingester, k.Tenant)
}

func (c *Commands) listAside(w http.ResponseWriter, r *http.Request, q url.Values) error {
	all, err := c.o.Backend.Asides(r.Context())
	if err != nil {
		return c.failed(r, err, "could not read the records of series that were set aside")
	}
	return writePage(w, q, all, func(a *Aside) string { return a.cursor() })
}

func (c *Commands) listLosses(w http.ResponseWriter, r *http.Request, q url.Values) error {
	all, err := c.o.Backend.Losses(r.Context())
	if err != nil {
		return c.failed(r, err, "could not read the windows with lost samples")
	}
	return writePage(w, q, all, func(l *Loss) string {
		return (&AsideKey{Ingester: l.Ingester, Tenant: l.Tenant, Day: l.Day, Window: l.Window}).cursor()
	})
}

// writePage sends the requested page of a list. The function `cursor` returns the sort key of an
// item; no two items have the same key.
func writePage[T any](w http.ResponseWriter, q url.Values, all []T, cursor func(*T) string) error {
	size, err := admin.PageSize(q)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(cursor(&a), cursor(&b)) })
	after := q.Get("pageCursor")
	first := slices.IndexFunc(all, func(v T) bool { return cursor(&v) > after })
	if first < 0 {
		first = len(all)
	}
	rest := all[first:]
	body := map[string]any{"items": append([]T{}, rest[:min(size, len(rest))]...)}
	if len(rest) > size {
		body["nextPageCursor"] = cursor(&rest[size-1])
	}
	admin.WriteJSON(w, http.StatusOK, body)
	return nil
}

// maxDay is the last day that can have samples: 2261-12-31.
const maxDay = 106_650

// dayOf parses the parameter "day".
func dayOf(q url.Values) (int64, error) {
	day, err := strconv.ParseInt(q.Get("day"), 10, 64)
	if err != nil || day < 0 || day > maxDay {
		return 0, admin.Invalid("day", "day %.50q is not the number of a UTC day since 1970, which the log and the overview page show",
			q.Get("day"))
	}
	return day, nil
}

const asideHint = "GET %s/aside lists the series that are set aside"

// asideKey parses the parameters that identify a record.
func asideKey(q url.Values) (k AsideKey, err error) {
	if k.Day, err = dayOf(q); err != nil {
		return k, admin.WithHint(err, asideHint, admin.Root)
	}
	const windows = 12 // of a day, of two hours each
	if k.Window, err = strconv.Atoi(q.Get("window")); err != nil || k.Window < 0 || k.Window >= windows {
		return k, admin.Fail(http.StatusBadRequest, "window", "window %q is not the number of a two-hour window of the day, from 0 to %d",
			q.Get("window"), windows-1)
	}
	if k.Tenant, err = tenant.ParseID(q.Get("tenant")); err != nil {
		return k, admin.Fail(http.StatusBadRequest, "tenant", "%s", err)
	}
	k.Ingester = q.Get("ingester")
	return k, nil
}

func (c *Commands) dropAside(w http.ResponseWriter, r *http.Request, q url.Values) error {
	key, err := asideKey(q)
	if err != nil {
		return err
	}
	got, lost, err := c.o.Backend.DropAside(r.Context(), key)
	if errors.Is(err, ErrNoAside) {
		return admin.WithHint(admin.NotFound("aside", "%s", err), asideHint, admin.Root)
	}
	if err != nil {
		return c.failed(r, err, "the series were not dropped")
	}
	c.o.Logger.Warn("operator dropped series that were set aside",
		"ingester", key.Ingester, "tenant", key.Tenant, "day", key.Day, "window", key.Window, "series", got.Series, "samples", got.Samples)
	message := "marked for deletion: the ingester deletes the files within about a minute, " +
		"unless it sets more series aside before; if 'pallium aside list' still shows them after that, repeat the command"
	if lost {
		message = "the record of the lost ingester was deleted"
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "message": message, "dropped": got})
	return nil
}

func (c *Commands) endQuery(w http.ResponseWriter, r *http.Request, q url.Values) error {
	id := q.Get("id")
	if id == "" {
		return admin.WithHint(admin.Invalid("id", "the ID of the query is missing"), queriesHint, admin.Root)
	}
	query, err := c.o.Backend.EndQuery(r.Context(), id)
	if err != nil {
		return c.failed(r, err, "the query was not ended: not all processes could be reached")
	}
	if query == nil {
		return admin.WithHint(admin.NotFound("id", "no query %.40q is in progress", id), queriesHint, admin.Root)
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "query": query})
	return nil
}

const queriesHint = "GET %s/status lists the queries in progress"

func (c *Commands) showStatus(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	status, err := c.o.Backend.Status(r.Context())
	if err != nil {
		return c.failed(r, err, "could not read the status")
	}
	admin.WriteJSON(w, http.StatusOK, status)
	return nil
}

// status returns the JSON that the overview page shows, from this process's own backend.
func (c *Commands) status(ctx context.Context) ([]byte, error) { return c.o.Backend.Status(ctx) }

func (c *Commands) showRing(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	members, err := c.o.Ring.Members(r.Context())
	if err != nil {
		return c.failed(r, err, "could not read the ring")
	}
	losses, err := c.o.Ring.LostIngesters(r.Context())
	if err != nil {
		return c.failed(r, err, "could not read the windows of lost ingesters")
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"members": append([]Member{}, members...), "losses": append([]Loss{}, losses...)})
	return nil
}

// instance returns the required parameter "instance".
func instance(q url.Values, what string) (string, error) {
	id := q.Get("instance")
	if strings.TrimSpace(id) == "" {
		return "", admin.WithHint(admin.Invalid("instance", "instance is missing: name the instance to %s", what),
			"GET %s/ring lists all instances", admin.Root)
	}
	return id, nil
}

func (c *Commands) forget(w http.ResponseWriter, r *http.Request, q url.Values) error {
	force, err := admin.Flag(q, "force")
	if err != nil {
		return err
	}
	id, err := instance(q, "forget")
	if err != nil {
		return err
	}
	windows, err := c.o.Ring.Forget(r.Context(), id, force)
	if err != nil {
		return c.failed(r, err, "could not remove the instance from the ring")
	}
	c.o.Logger.Warn("operator removed an instance from the ring", "instance", id, "pending_windows", windows)
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "pendingWindows": windows})
	return nil
}

func (c *Commands) leave(w http.ResponseWriter, r *http.Request, q url.Values) error {
	wait, err := admin.Flag(q, "wait")
	if err != nil {
		return err
	}
	id, err := instance(q, "remove from the cluster")
	if err != nil {
		return err
	}
	err = c.o.Ring.Leave(r.Context(), id, wait)
	switch {
	case err != nil:
		return c.failed(r, err, "the ingester did not leave; no data is lost: repeat the command")
	case !wait:
		admin.WriteJSON(w, http.StatusAccepted, map[string]string{"status": "started"})
	default:
		admin.WriteJSON(w, http.StatusOK, map[string]string{"status": "done",
			"message": "everything is uploaded and the ingester has left the ring: stop the process; its disk can be deleted"})
	}
	return nil
}
