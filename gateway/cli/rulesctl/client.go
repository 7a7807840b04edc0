package rulesctl

import (
	"context"
	"flag"
	"net/http"
	"net/url"

	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/gateway/cli/tenantclient"
)

// client sends requests for rules to a gateway.
type client struct {
	tenantclient.Client
	override string
}

func newClient(fs *flag.FlagSet) *client {
	c := &client{Client: tenantclient.Client{Scopes: "rules:read,rules:write", Shows: "'pallium rules list' shows the groups"}}
	c.Flags(fs)
	fs.StringVar(&c.override, "override-protection", "", "protected `namespaces` that may be changed, separated by commas")
	return c
}

// path returns the path of the API for all rules, a namespace, or a namespace and a group.
func path(names ...string) string {
	p := "/prometheus/config/v1/rules"
	for _, n := range names {
		p += "/" + url.PathEscape(n)
	}
	return p
}

// groups returns all groups of the tenant.
func (c *client) groups(ctx context.Context) ([]rules.Group, error) {
	body, err := c.call(ctx, http.MethodGet, path(), nil)
	if err != nil {
		return nil, err
	}
	groups, err := rules.ParseListing(body)
	if err != nil {
		return nil, c.Undecodable(err)
	}
	return groups, nil
}

// call sends a request and returns the body of the response.
func (c *client) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	r := tenantclient.Request{Method: method, Path: path, Body: body, Header: http.Header{}}
	if body != nil {
		r.ContentType = "application/yaml"
	}
	if c.override != "" {
		r.Header.Set("X-Mimir-Ruler-Override-Namespace-Protection", c.override)
	}
	return c.Call(ctx, r)
}
