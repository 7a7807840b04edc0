package rulesapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// Memory of a listing and of a group, in multiples of their YAML: parsed, encoded again and as nodes.
const (
	listFactor  = 2
	groupFactor = 64
)

func (a *api) list(x *exchange) error {
	return a.listing(x, func(*index.RuleGroup) bool { return true })
}

func (a *api) listNamespace(x *exchange) error {
	return a.listing(x, func(g *index.RuleGroup) bool { return g.Namespace == x.namespace })
}

// listing responds with the groups that match, by namespace. The response is made from the YAML of the
// groups, which need not be parsed.
func (a *api) listing(x *exchange, matches func(*index.RuleGroup) bool) error {
	set, err := a.Store.List(x.r.Context(), x.tenant)
	if err != nil {
		return err
	}
	if err := x.memory.Take(listFactor * size(set)); err != nil {
		return err
	}
	var out rules.Listing
	for i := range set.Groups {
		g := &set.Groups[i]
		if !matches(g) {
			continue
		}
		if g.Err != nil {
			return g.Err
		}
		if err := out.Add(g.Namespace, g.YAML); err != nil {
			return fmt.Errorf("encode namespace: %w", err)
		}
	}
	writeYAML(x.w, out.Bytes())
	return nil
}

func size(set index.RuleSet) int64 {
	n := 0
	for i := range set.Groups {
		n += len(set.Groups[i].YAML) + len(set.Groups[i].Namespace) + len(set.Groups[i].Name)
	}
	return int64(n)
}

// get responds with one group.
func (a *api) get(x *exchange) error {
	g, ok, err := a.Store.Get(x.r.Context(), x.tenant, x.namespace, x.group)
	switch {
	case err != nil:
		return err
	case !ok:
		return errNoGroup
	}
	writeYAML(x.w, []byte(g.YAML))
	return nil
}

// set creates or replaces a group.
func (a *api) set(x *exchange) error {
	d, err := a.readGroup(x)
	if err != nil {
		return err
	}
	d.Namespace = x.namespace
	err = rules.Check(d, rules.Checks{Parser: a.Parsers(switches.Of(x.limits)), Limits: x.limits, Tenant: x.tenant})
	if err != nil {
		return badRequest(err.Error())
	}
	if err := x.checkProtection(); err != nil {
		return err
	}
	text, err := rules.Encode(&d.Group)
	if err != nil {
		return fmt.Errorf("encode group: %w", err)
	}
	if len(text) > rules.MaxGroupBytes { // encoded differently than it was sent
		return badRequest(fmt.Sprintf("the group has %d bytes of YAML, the limit is %d: divide it into several groups", len(text),
			rules.MaxGroupBytes))
	}
	group := index.RuleGroup{Namespace: x.namespace, Name: d.Name, YAML: string(text)}
	err = a.Store.Put(x.r.Context(), x.tenant, group, func(set index.RuleSet) error { return x.checkSet(set, group) })
	return a.changed(x, err)
}

// readGroup reads and parses the body.
func (a *api) readGroup(x *exchange) (*rules.Document, error) {
	if e := x.r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, statusError{http.StatusUnsupportedMediaType, "bad_data",
			fmt.Sprintf("content encoding %q is not supported: send the YAML uncompressed", e)}
	}
	most := int64(rules.MaxGroupBytes) + 1
	if n := x.r.ContentLength; n >= 0 {
		most = min(most, n)
	}
	if err := x.memory.Take(groupFactor * most); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(x.r.Body, rules.MaxGroupBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	d, err := rules.ParseGroup(body)
	if err != nil {
		return nil, badRequest(err.Error())
	}
	return d, nil
}

// checkSet checks whether a group can be added to the rules of the tenant, or replace one.
func (x *exchange) checkSet(set index.RuleSet, group index.RuleGroup) error {
	groups, bytes := 1, int64(len(group.YAML))
	for i := range set.Groups {
		if g := &set.Groups[i]; g.Namespace != group.Namespace || g.Name != group.Name {
			groups++
			bytes += int64(len(g.YAML))
		}
	}
	// A tenant whose limit was lowered may still change groups.
	if most := x.limits.MaxRuleGroups; most > 0 && groups > most && groups > len(set.Groups) {
		return limits.MaxRuleGroups.Exceeded(x.limits, int64(groups))
	}
	if bytes > MaxTenantBytes {
		return badRequest(fmt.Sprintf("all groups of the tenant would have %d bytes of YAML, the limit is %d: delete groups that are not needed",
			bytes, MaxTenantBytes))
	}
	return nil
}

func (a *api) deleteNamespace(x *exchange) error {
	if err := x.checkProtection(); err != nil {
		return err
	}
	found, err := a.Store.DeleteNamespace(x.r.Context(), x.tenant, x.namespace)
	if err == nil && !found {
		return statusError{http.StatusNotFound, "not_found", "namespace does not exist"}
	}
	return a.changed(x, err)
}

func (a *api) deleteGroup(x *exchange) error {
	if err := x.checkProtection(); err != nil {
		return err
	}
	found, err := a.Store.Delete(x.r.Context(), x.tenant, x.namespace, x.group)
	if err == nil && !found {
		return errNoGroup
	}
	return a.changed(x, err)
}

// changed reports a change and responds. After an error, too, the rules may have changed.
func (a *api) changed(x *exchange, err error) error {
	a.Changed(x.tenant)
	if err != nil {
		return err
	}
	writeJSON(x.w, http.StatusAccepted, succeeded)
	return nil
}

// succeeded is the response to a change, as in Mimir.
const succeeded = `{"status":"success","data":null,"errorType":"","error":""}`

// statusError is an error whose text is for the tenant.
type statusError struct {
	code       int
	kind, text string
}

func (e statusError) Error() string { return e.text }

func badRequest(text string) error { return statusError{http.StatusBadRequest, "bad_data", text} }

var errNoGroup = statusError{http.StatusNotFound, "not_found", "group does not exist"}

// statusClientGone is the status of a request whose client closed the connection.
const statusClientGone = 499

// fail responds with an error.
func (a *api) fail(x *exchange, err error) {
	var (
		known    statusError
		exceeded *limits.Exceeded
		large    *memory.TooLargeError
	)
	switch {
	case errors.Is(context.Cause(x.r.Context()), context.Canceled):
		x.w.WriteHeader(statusClientGone)
	case errors.As(err, &known):
		writeError(x.w, known.code, known.kind, known.text)
	case errors.As(err, &exceeded) && exceeded.Of(limits.MaxMemoryBytes):
		writeError(x.w, http.StatusUnprocessableEntity, "execution", exceeded.Error())
	case errors.As(err, &exceeded):
		writeError(x.w, http.StatusBadRequest, "bad_data", exceeded.Error())
	case errors.As(err, &large):
		writeError(x.w, http.StatusRequestEntityTooLarge, "bad_data", large.Error())
	case errors.Is(err, memory.ErrFull):
		x.w.Header().Set("Retry-After", "5")
		writeError(x.w, http.StatusServiceUnavailable, "unavailable", memory.ErrFull.Error()+"; send the request again")
	default:
		a.Logger.Error("request for rules failed", "path", x.r.URL.Path, "tenant", x.tenant, "err", err)
		x.w.Header().Set("Retry-After", "5")
		writeError(x.w, http.StatusServiceUnavailable, "unavailable", "the rules could not be read or written; send the request again")
	}
}

func writeYAML(w http.ResponseWriter, data []byte) {
	w.Header().Set("Content-Type", "application/yaml")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(data)
}

func writeError(w http.ResponseWriter, code int, kind, text string) {
	data, _ := json.Marshal(map[string]string{"status": "error", "errorType": kind, "error": text}) // strings can be encoded
	writeJSON(w, code, string(data))
}

func writeJSON(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}
