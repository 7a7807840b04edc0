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
	return c.begin(w, r, q, "flush failed: nothing is lost, what was not sealed stays in memory and in the write-ahead log", do)
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
	return c.begin(w, r, q, "compaction failed: nothing is lost, what was not compacted stays where it was", do)
}

func (c *Commands) acceptLoss(w http.ResponseWriter, r *http.Request, q url.Values) error {
	day, err := strconv.ParseInt(q.Get("day"), 10, 64)
	if err != nil {
		return admin.Fail(http.StatusBadRequest, "day",
			"day must be the number of a UTC day since 1970, as the log and the operator page name it")
	}
	n, err := c.o.Backend.AcceptLoss(r.Context(), day)
	if err != nil {
		return c.failed(r, err, fmt.Sprintf("not all losses of day %d could be accepted, repeat the command", day))
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
		return c.failed(r, err, "the report could not be read")
	case e == nil:
		return admin.Fail(http.StatusNotFound, "tenant", "tenant %q is not a deleted tenant", id)
	}
	admin.WriteJSON(w, http.StatusOK, e)
	return nil
}

// cursor orders records, and names the last one of a page.
func (k *AsideKey) cursor() string {
	return fmt.Sprintf("%09d/%02d/%s/%s", k.Day, k.Window, k.Ingester, k.Tenant)
}

func (c *Commands) listAside(w http.ResponseWriter, r *http.Request, q url.Values) error {
	size, err := admin.PageSize(q)
	if err != nil {
		return err
	}
	all, err := c.o.Backend.Asides(r.Context())
	if err != nil {
		return c.failed(r, err, "the records of series that were set aside could not be read")
	}
	slices.SortFunc(all, func(a, b Aside) int { return cmp.Compare(a.cursor(), b.cursor()) })
	after := q.Get("pageCursor")
	first := slices.IndexFunc(all, func(a Aside) bool { return a.cursor() > after })
	if first < 0 {
		first = len(all)
	}
	rest := all[first:]
	body := map[string]any{"items": append([]Aside{}, rest[:min(size, len(rest))]...)}
	if len(rest) > size {
		body["nextPageCursor"] = rest[size-1].cursor()
	}
	admin.WriteJSON(w, http.StatusOK, body)
	return nil
}

// asideKey reads the parameters that name a record.
func asideKey(q url.Values) (k AsideKey, err error) {
	if k.Day, err = strconv.ParseInt(q.Get("day"), 10, 64); err != nil || k.Day < 0 {
		return k, admin.Fail(http.StatusBadRequest, "day",
			"day %q is not the number of a UTC day since 1970; GET %s/aside lists what is set aside", q.Get("day"), admin.Root)
	}
	const windows = 12 // of a day, of two hours each
	if k.Window, err = strconv.Atoi(q.Get("window")); err != nil || k.Window < 0 || k.Window >= windows {
		return k, admin.Fail(http.StatusBadRequest, "window", "window %q is not the number of a window of the day, from 0 to %d",
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
		return admin.Fail(http.StatusNotFound, "", "%s; GET %s/aside lists what is set aside", err, admin.Root)
	}
	if err != nil {
		return c.failed(r, err, "nothing was dropped")
	}
	c.o.Logger.Warn("an operator dropped series that were set aside",
		"ingester", key.Ingester, "tenant", key.Tenant, "day", key.Day, "window", key.Window, "series", got.Series, "samples", got.Samples)
	message := "marked: the ingester deletes the files within about a minute; " +
		"if more is set aside before that, the mark goes and the command must be repeated"
	if lost {
		message = "the record of the lost ingester is deleted"
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "message": message, "dropped": got})
	return nil
}

func (c *Commands) showStatus(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	status, err := c.o.Backend.Status(r.Context())
	if err != nil {
		return c.failed(r, err, "the status could not be read")
	}
	admin.WriteJSON(w, http.StatusOK, status)
	return nil
}

// status is what the overview page shows: of this process's own commands.
func (c *Commands) status(ctx context.Context) ([]byte, error) { return c.o.Backend.Status(ctx) }

func (c *Commands) showRing(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	members, err := c.o.Ring.Members(r.Context())
	if err != nil {
		return admin.Fail(http.StatusServiceUnavailable, "", "the ring is not known: %s", err)
	}
	losses, err := c.o.Ring.Losses(r.Context())
	if err != nil {
		return c.failed(r, err, "the losses of ingesters could not be read")
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"members": append([]Member{}, members...), "losses": append([]Loss{}, losses...)})
	return nil
}

// instance reads the parameter that names one.
func instance(q url.Values, what string) (string, error) {
	id := q.Get("instance")
	if strings.TrimSpace(id) == "" {
		return "", admin.Fail(http.StatusBadRequest, "instance", "instance is missing: %s? GET %s/ring lists them", what, admin.Root)
	}
	return id, nil
}

func (c *Commands) forget(w http.ResponseWriter, r *http.Request, q url.Values) error {
	force, err := admin.Flag(q, "force")
	if err != nil {
		return err
	}
	id, err := instance(q, "which one is to be forgotten")
	if err != nil {
		return err
	}
	windows, err := c.o.Ring.Forget(r.Context(), id, force)
	if err != nil {
		return c.failed(r, err, "the instance was not forgotten")
	}
	c.o.Logger.Warn("an operator had an instance forgotten", "instance", id, "pending_windows", windows)
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "pendingWindows": windows})
	return nil
}

func (c *Commands) leave(w http.ResponseWriter, r *http.Request, q url.Values) error {
	wait, err := admin.Flag(q, "wait")
	if err != nil {
		return err
	}
	id, err := instance(q, "which ingester is to leave")
	if err != nil {
		return err
	}
	err = c.o.Ring.Leave(r.Context(), id, wait)
	switch {
	case err != nil:
		return c.failed(r, err, "leaving failed, nothing is lost; repeat the command")
	case !wait:
		admin.WriteJSON(w, http.StatusAccepted, map[string]string{"status": "started"})
	default:
		admin.WriteJSON(w, http.StatusOK, map[string]string{"status": "done",
			"message": "everything is uploaded and the ring knows; stop the process, its disk is not needed any more"})
	}
	return nil
}
