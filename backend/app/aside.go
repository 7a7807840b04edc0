package app

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/gateway/admin"
)

// asideView is a record of series that were set aside as the operator sees it.
type asideView struct {
	Ingester string     `json:"ingester"`
	Tenant   tenant.ID  `json:"tenant"`
	Day      int64      `json:"day"`
	Window   int        `json:"window"`
	Zone     string     `json:"zone,omitempty"`
	Since    time.Time  `json:"since"`
	Series   int64      `json:"series"`
	Samples  int64      `json:"samples"`
	Bytes    int64      `json:"bytes"`
	Reason   string     `json:"reason"`
	Dropped  *time.Time `json:"dropped,omitempty"`
}

func viewAside(a *store.AsideOf) asideView {
	v := asideView{Ingester: a.Ingester, Tenant: a.Tenant, Day: a.Window.Day, Window: a.Window.Number, Zone: a.Zone, Since: time.UnixMilli(a.Since).UTC(),
		Series: a.Series, Samples: a.Samples, Bytes: a.Bytes, Reason: a.Reason}
	if a.Dropped != 0 {
		at := time.UnixMilli(a.Dropped).UTC()
		v.Dropped = &at
	}
	return v
}

// listAside lists the series that no pack could hold.
func (a *App) listAside(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	all, err := a.longTerm.Asides(r.Context())
	if err != nil {
		return a.failed(r, err, "the records of series that were set aside could not be read")
	}
	items := []asideView{}
	for i := range all {
		items = append(items, viewAside(&all[i]))
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"items": items})
	return nil
}

// dropAside gives up series of a tenant and window that an ingester set aside.
func (a *App) dropAside(w http.ResponseWriter, r *http.Request, q url.Values) error {
	day, err := strconv.ParseInt(q.Get("day"), 10, 64)
	if err != nil || day < 0 {
		return admin.Fail(http.StatusBadRequest, "day",
			"day %q is not the number of a UTC day since 1970; GET %s/aside lists what is set aside", q.Get("day"), admin.Root)
	}
	window, err := strconv.Atoi(q.Get("window"))
	if err != nil || window < 0 || window > 11 {
		return admin.Fail(http.StatusBadRequest, "window", "window %q is not the number of a window of the day, from 0 to 11", q.Get("window"))
	}
	id, err := tenant.ParseID(q.Get("tenant"))
	if err != nil {
		return admin.Fail(http.StatusBadRequest, "tenant", "%s", err)
	}
	got, err := a.longTerm.DropAside(r.Context(), q.Get("ingester"), store.Window{Day: day, Number: window}, id)
	if errors.Is(err, store.ErrNoAside) {
		return admin.Fail(http.StatusNotFound, "", "%s; GET %s/aside lists what is set aside", err, admin.Root)
	}
	if err != nil {
		return a.failed(r, err, "nothing was dropped")
	}
	a.opts.Logger.Warn("an operator dropped series that were set aside", "ingester", got.Ingester, "tenant", id, "day", day, "window", window,
		"series", got.Series, "samples", got.Samples)
	message := "marked: the ingester deletes the files within about a minute; if more is set aside before that, the mark goes and the command must be repeated"
	if store.IsLost(got.Ingester) {
		message = "the record of the lost ingester is deleted"
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "message": message, "dropped": viewAside(&got)})
	return nil
}
