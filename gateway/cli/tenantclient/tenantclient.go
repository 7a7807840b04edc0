// Package tenantclient sends the requests of commands to a gateway, with a key of a tenant.
package tenantclient

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
	"github.com/palliumhq/pallium/gateway/cli/command"
)

const (
	maxAnswer  = 64 << 20 // bytes
	defaultURL = "http://127.0.0.1:9009"
	// maxText is the length to which errors of the server are shortened.
	maxText = 16 << 10 // bytes
)

// Client sends requests to a gateway. Its exported fields must be set before Prepare.
type Client struct {
	*command.Shell
	Scopes string // scopes that the commands need, for the error if there is no key
	Shows  string // says how to find out whether an interrupted request was carried out, such as "'pallium rules list' shows the groups"

	url, tokenFile, tenant string
	key                    string
}

// Request is a request to the API of a tenant.
type Request struct {
	Method      string
	Path        string // with the query
	ContentType string // of the body
	Body        []byte
	Header      http.Header // additional header of the command; may be nil
}

// Error is the error of a request that the server answered with an error status.
type Error struct {
	Code int
	Text string
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Flags declares the flags that say which gateway and which tenant a command is for.
func (c *Client) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.url, "url", "", "`URL` of the gateway (default $PALLIUM_URL, or "+defaultURL+")")
	fs.StringVar(&c.tokenFile, "token-file", "", "`file` with a key of the tenant (default: $PALLIUM_TOKEN, or the file in "+
		"$PALLIUM_TOKEN_FILE)")
	fs.StringVar(&c.tenant, "tenant", "", "`tenant`, for a key that is valid for several")
}

// Prepare reads the key and checks the URL.
func (c *Client) Prepare() error {
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
func (c *Client) readKey() error {
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
		return fmt.Errorf("no key of the tenant: set PALLIUM_TOKEN, PALLIUM_TOKEN_FILE or -token-file; "+
			"'pallium token issue -scopes %s' creates a key", c.Scopes)
	}
	if !command.Sendable(c.key) {
		return errors.New("the key of the tenant must be one line of printable ASCII characters without spaces")
	}
	return nil
}

// Undecodable returns the error of a response that cannot be decoded. cause may be nil.
func (c *Client) Undecodable(cause error) error {
	err := fmt.Errorf("the response of %s cannot be decoded: check that -url is a gateway of Pallium", c.url)
	if cause == nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// Call sends a request and returns the body of the response. Responses with an error are an *Error.
func (c *Client) Call(ctx context.Context, r Request) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, command.RequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, r.Method, c.url+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("create request: %w", err)
	}
	for name, values := range r.Header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	if c.tenant != "" {
		req.Header.Set(tenant.HeaderOrgID, c.tenant)
	}
	if r.ContentType != "" {
		req.Header.Set("Content-Type", r.ContentType)
	}
	answer, err := send(req)
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: the server may still execute the last request; %s", command.ErrInterrupted, c.Shows)
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
	text := errorText(resp.Header.Get("Content-Type"), resp.Body)
	if text == "" {
		text = fmt.Sprintf("%s responded with %s: check that -url is a gateway of Pallium", req.URL.Host, resp.Status)
	}
	return nil, &Error{Code: resp.Code, Text: text}
}

// errorText returns the text of an error response, or "" if it is none of Pallium's. The APIs of a tenant have four forms
// of errors: Prometheus' JSON object, Alertmanager's JSON string or object, and plain text. Plain text that other servers
// send for unknown paths is not accepted.
func errorText(contentType string, body []byte) string {
	var object struct{ Error, Message string }
	var text string
	switch {
	case json.Unmarshal(body, &object) == nil && object.Error != "":
		text = object.Error
	case json.Unmarshal(body, &object) == nil && object.Message != "":
		text = object.Message
	case json.Unmarshal(body, &text) == nil:
	case strings.HasPrefix(contentType, "text/plain"):
		if text = string(body); strings.TrimSpace(text) == "404 page not found" {
			return ""
		}
	}
	text = strings.TrimSpace(strings.ToValidUTF8(text, ""))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}
