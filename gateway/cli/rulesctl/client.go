package rulesctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/gateway/cli/command"
)

const (
	maxAnswer  = 64 << 20 // bytes
	defaultURL = "http://127.0.0.1:9009"
)

// client sends requests to a gateway.
type client struct {
	*command.Shell
	url, tokenFile, tenant, override string
	key                              string
}

func (c *client) flags(fs *flag.FlagSet) {
	fs.StringVar(&c.url, "url", "", "`URL` of the gateway (default $PALLIUM_URL, or "+defaultURL+")")
	fs.StringVar(&c.tokenFile, "token-file", "", "`file` with a key of the tenant (default: $PALLIUM_TOKEN, or the file in "+
		"$PALLIUM_TOKEN_FILE)")
	fs.StringVar(&c.tenant, "tenant", "", "`tenant`, for a key that is valid for several")
	fs.StringVar(&c.override, "override-protection", "", "`namespaces` that are changed although they are protected, separated by commas")
}

// prepare reads the key and checks the URL.
func (c *client) prepare() error {
	if c.url == "" {
		c.url = c.Env("PALLIUM_URL")
	}
	if c.url == "" {
		c.url = defaultURL
	}
	base, err := url.Parse(c.url)
	switch {
	case strings.Contains(c.url, "@"):
		return command.Misused("-url (or PALLIUM_URL) contains an @; it must have the form http(s)://host[:port], without user and password")
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.RawQuery != "" || base.Fragment != "":
		return command.Misused("-url (or PALLIUM_URL) %q must have the form http(s)://host[:port]", c.url)
	}
	c.url = strings.TrimRight(c.url, "/")
	return c.readKey()
}

// readKey sets the key of the tenant.
func (c *client) readKey() error {
	file := c.tokenFile
	if file == "" {
		if c.key = strings.TrimSpace(c.Env("PALLIUM_TOKEN")); c.key == "" {
			file = c.Env("PALLIUM_TOKEN_FILE")
		}
	}
	if file != "" {
		var err error
		if c.key, err = command.ReadSecret(file); err != nil {
			return fmt.Errorf("read the key of the tenant: %w", err)
		}
	}
	if c.key == "" {
		return errors.New("no key of the tenant: set PALLIUM_TOKEN, PALLIUM_TOKEN_FILE or -token-file; " +
			"'pallium token issue -scopes rules:read,rules:write' creates a key")
	}
	if !command.Sendable(c.key) {
		return errors.New("the key of the tenant must be one line of printable ASCII characters without spaces")
	}
	return nil
}

// path returns the path of the API for a namespace and a group, or without one of them.
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
		return nil, fmt.Errorf("the response of %s cannot be decoded: check that -url is a gateway of Pallium: %w", c.url, err)
	}
	return groups, nil
}

// call sends a request and returns the body of the response.
func (c *client) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, command.RequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("create request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	if c.tenant != "" {
		req.Header.Set(tenant.HeaderOrgID, c.tenant)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/yaml")
	}
	if c.override != "" {
		req.Header.Set("X-Mimir-Ruler-Override-Namespace-Protection", c.override)
	}
	answer, err := send(req)
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: the server may still execute the last request; 'pallium rules list' shows the groups", command.ErrInterrupted)
	}
	return nil, err
}

// send sends a request and returns the body of the response.
func send(req *http.Request) ([]byte, error) {
	resp, err := command.Send(req, maxAnswer, "gateway")
	switch {
	case resp == nil:
		return nil, fmt.Errorf("the gateway cannot be reached: check that it is running and that -url is right: %w", err)
	case err != nil:
		return nil, err
	}
	if resp.Code/100 == 2 {
		return resp.Body, nil
	}
	var e struct{ Error string }
	if json.Unmarshal(resp.Body, &e) != nil || e.Error == "" {
		return nil, fmt.Errorf("%s responded with %s: check that -url is a gateway of Pallium", req.URL.Host, resp.Status)
	}
	return nil, errors.New(e.Error)
}
