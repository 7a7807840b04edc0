package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

const maxAnswer = 16 << 20 // bytes

// answer is a response of the server.
type answer struct {
	body []byte
	etag string
}

// apiRoot is the path prefix of the API.
const apiRoot = "/admin/v1/"

// path joins escaped path elements under the root of the API.
func path(parts ...string) string {
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return apiRoot + strings.Join(parts, "/")
}

// call sends a request. It encodes body as JSON and decodes the response into the value that
// `into` points to; both may be nil.
func (s *session) call(ctx context.Context, method, path, etag string, body, into any) (answer, error) {
	token, from, err := s.token(ctx)
	if err != nil {
		return answer{}, err
	}
	limited := ctx
	if !s.patient {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, command.RequestTimeout)
		defer cancel()
	}
	req, err := s.request(limited, method, path, body)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	a, err := send(req)
	if err != nil {
		return a, s.failed(ctx, req, from, err)
	}
	if into != nil && json.Unmarshal(a.body, into) != nil {
		return a, s.undecodable()
	}
	return a, nil
}

// undecodable returns the error of a response that cannot be decoded. It omits the cause,
// whose text is about Go types.
func (s *session) undecodable() error {
	return fmt.Errorf("the response of %s cannot be decoded: check that -admin-url is Pallium's admin listener, and that the server "+
		"has the version of this command ('pallium version')", s.url)
}

func (s *session) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(s.url, "/")+path, r)
	if err != nil {
		return nil, fmt.Errorf("create request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// checkURL checks -admin-url. A URL with a user or password is an error that does not repeat the
// URL: the admin token is the only credential.
func (s *session) checkURL() error {
	const what = "-admin-url (or PALLIUM_ADMIN_URL)"
	base, err := url.Parse(s.url)
	switch {
	case strings.Contains(s.url, "@"):
		return command.Misused("%s contains an @; it must have the form http(s)://host[:port], without user and password: "+
			"the admin token is the only credential", what)
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return command.Misused("%s %q must have the form http(s)://host[:port]", what, command.Shorten(s.url))
	case base.RawQuery != "" || base.Fragment != "":
		return command.Misused("%s %q must have the form http(s)://host[:port], without ? and #", what, command.Shorten(s.url))
	}
	return nil
}

func send(req *http.Request) (answer, error) {
	resp, err := command.Send(req, maxAnswer, "server")
	if err != nil {
		return answer{}, err
	}
	if resp.Code >= 300 {
		e := &apiError{Status: resp.Code}
		if json.Unmarshal(resp.Body, e) != nil || e.Message == "" {
			e.Message = fmt.Sprintf("%s responded with %s: check that -admin-url is Pallium's admin listener", req.URL.Host, resp.Status)
		}
		return answer{}, e
	}
	return answer{body: resp.Body, etag: resp.Header.Get("ETag")}, nil
}

// token returns the admin token from the same sources as the server, and the source.
func (s *session) token(ctx context.Context) (token, from string, err error) {
	if t := strings.TrimSpace(s.Env("PALLIUM_ADMIN_TOKEN")); t != "" {
		return t, "PALLIUM_ADMIN_TOKEN", checkToken(t, "PALLIUM_ADMIN_TOKEN")
	}
	file := s.Env("PALLIUM_ADMIN_TOKEN_FILE")
	from = file + " (PALLIUM_ADMIN_TOKEN_FILE)"
	if file == "" {
		file, from = s.tokenFile(), s.tokenFile()
	}
	token, err = command.Within(ctx, func() (string, error) { return command.ReadSecret(file) })
	switch {
	case ctx.Err() != nil:
		return "", "", fmt.Errorf("%w while reading the admin token from %s: %w", command.ErrInterrupted, from, command.ErrUnchanged)
	case err != nil:
		return "", "", fmt.Errorf("no admin token: set PALLIUM_ADMIN_TOKEN or PALLIUM_ADMIN_TOKEN_FILE, or set -data-dir to the data "+
			"directory of the server: %w", err)
	case token == "":
		return "", "", fmt.Errorf("admin token file %s is empty", file)
	}
	return token, from, checkToken(token, from)
}

// checkToken rejects a token that cannot be sent in a header, such as two lines.
func checkToken(token, from string) error {
	if !command.Sendable(token) {
		return fmt.Errorf("the admin token in %s must be one line of printable ASCII characters without spaces", from)
	}
	return nil
}

// items reads all pages of a list.
func items[T any](ctx context.Context, s *session, path string, q url.Values) (parsed []T, raw []json.RawMessage, err error) {
	q.Set("pageSize", "500")
	for {
		var page struct {
			Items          []json.RawMessage `json:"items"`
			NextPageCursor string            `json:"nextPageCursor"`
		}
		if _, err := s.call(ctx, http.MethodGet, path+"?"+q.Encode(), "", nil, &page); err != nil {
			return nil, nil, err
		}
		for _, r := range page.Items {
			var v T
			if err := json.Unmarshal(r, &v); err != nil {
				return nil, nil, s.undecodable()
			}
			parsed, raw = append(parsed, v), append(raw, r)
		}
		if page.NextPageCursor == "" {
			return parsed, raw, nil
		}
		q.Set("pageCursor", page.NextPageCursor)
	}
}
