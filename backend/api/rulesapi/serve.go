package rulesapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/palliumhq/pallium/backend/api/exchange"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// Memory of a listing and of a group, as multiples of the size of their YAML. A group is parsed into nodes, and encoded again.
const (
	listFactor  = 2
	groupFactor = 64
)

func (a *api) list(x *request) error {
	return a.listing(x, func(*index.RuleGroup) bool { return true })
}

func (a *api) listNamespace(x *request) error {
	return a.listing(x, func(g *index.RuleGroup) bool { return g.Namespace == x.namespace })
}

// listing responds with the groups that match, by namespace. The response is made from the YAML of the
// groups, which need not be parsed.
func (a *api) listing(x *request, matches func(*index.RuleGroup) bool) error {
	set, err := a.Store.List(x.R.Context(), x.Tenant)
	if err != nil {
		return err
	}
	if err := x.Memory.Take(listFactor * size(set)); err != nil {
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
	writeYAML(x.W, out.Bytes())
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
func (a *api) get(x *request) error {
	g, ok, err := a.Store.Get(x.R.Context(), x.Tenant, x.namespace, x.group)
	switch {
	case err != nil:
		return err
	case !ok:
		return errNoGroup
	}
	writeYAML(x.W, []byte(g.YAML))
	return nil
}

// set creates or replaces a group.
func (a *api) set(x *request) error {
	d, err := a.readGroup(x)
	if err != nil {
		return err
	}
	d.Namespace = x.namespace
	err = rules.Check(d, rules.Checks{Parser: a.Parsers(switches.Of(x.Limits)), Limits: x.Limits, Tenant: x.Tenant})
	if err != nil {
		return exchange.BadRequest(err.Error())
	}
	if err := x.checkProtection(); err != nil {
		return err
	}
	text, err := rules.Encode(&d.Group)
	if err != nil {
		return fmt.Errorf("encode group: %w", err)
	}
	if len(text) > rules.MaxGroupBytes { // encoded differently than it was sent
		return exchange.BadRequest(fmt.Sprintf("the group has %d bytes of YAML, the limit is %d: divide it into several groups", len(text),
			rules.MaxGroupBytes))
	}
	group := index.RuleGroup{Namespace: x.namespace, Name: d.Name, YAML: string(text)}
	err = a.Store.Put(x.R.Context(), x.Tenant, group, func(set index.RuleSet) error { return x.checkSet(set, group) })
	return a.changed(x, err)
}

// readGroup reads and parses the body.
func (a *api) readGroup(x *request) (*rules.Document, error) {
	if e := x.R.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, &exchange.Error{Code: http.StatusUnsupportedMediaType, Kind: "bad_data",
			Text: fmt.Sprintf("content encoding %q is not supported: send the YAML uncompressed", e)}
	}
	most := int64(rules.MaxGroupBytes) + 1
	if n := x.R.ContentLength; n >= 0 {
		most = min(most, n)
	}
	if err := x.Memory.Take(groupFactor * most); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(x.R.Body, rules.MaxGroupBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	d, err := rules.ParseGroup(body)
	if err != nil {
		return nil, exchange.BadRequest(err.Error())
	}
	return d, nil
}

// checkSet returns an error if adding or replacing a group would exceed a limit of the tenant's rules.
func (x *request) checkSet(set index.RuleSet, group index.RuleGroup) error {
	groups, bytes := 1, int64(len(group.YAML))
	for i := range set.Groups {
		if g := &set.Groups[i]; g.Namespace != group.Namespace || g.Name != group.Name {
			groups++
			bytes += int64(len(g.YAML))
		}
	}
	// A tenant above a lowered limit may still change groups, but not add any.
	if most := x.Limits.MaxRuleGroups; most > 0 && groups > most && groups > len(set.Groups) {
		return limits.MaxRuleGroups.Exceeded(x.Limits, int64(groups))
	}
	if bytes > MaxTenantBytes {
		return exchange.BadRequest(fmt.Sprintf(
			"all groups of the tenant would have %d bytes of YAML, the limit is %d: delete groups that are not needed",
			bytes, MaxTenantBytes))
	}
	return nil
}

func (a *api) deleteNamespace(x *request) error {
	if err := x.checkProtection(); err != nil {
		return err
	}
	found, err := a.Store.DeleteNamespace(x.R.Context(), x.Tenant, x.namespace)
	if err == nil && !found {
		return exchange.NotFound("namespace does not exist")
	}
	return a.changed(x, err)
}

func (a *api) deleteGroup(x *request) error {
	if err := x.checkProtection(); err != nil {
		return err
	}
	found, err := a.Store.Delete(x.R.Context(), x.Tenant, x.namespace, x.group)
	if err == nil && !found {
		return errNoGroup
	}
	return a.changed(x, err)
}

// changed reports a change and responds. It reports a change even after an error, because the rules may have changed.
func (a *api) changed(x *request, err error) error {
	a.Changed(x.Tenant)
	if err != nil {
		return err
	}
	writeJSON(x.W, http.StatusAccepted, succeeded)
	return nil
}

// succeeded is the response to a change, as in Mimir.
const succeeded = `{"status":"success","data":null,"errorType":"","error":""}`

var errNoGroup = exchange.NotFound("group does not exist")

// writeFailure responds with an error in the format of Prometheus' API.
func writeFailure(w http.ResponseWriter, e *exchange.Error) {
	data, _ := json.Marshal(map[string]string{"status": "error", "errorType": e.Kind, "error": e.Text}) // strings can be encoded
	writeJSON(w, e.Code, string(data))
}

func writeYAML(w http.ResponseWriter, data []byte) {
	w.Header().Set("Content-Type", "application/yaml")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(data)
}

func writeJSON(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}
