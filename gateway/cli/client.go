package cli

import (
	"github.com/palliumhq/pallium/gateway/cli/command"

	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	requestTimeout = 60 * time.Second
	maxAnswer      = 16 << 20 // bytes
	maxTokenFile   = 4 << 10  // bytes
)

// apiError is an error response of the server.
type apiError struct {
	Status    int    `json:"-"`
	Code      string `json:"code"`
	Message   string `json:"message"`
	RequestID string `json:"requestId"`
}

func (e *apiError) Error() string {
	message := words.Replace(e.Message)
	if e.RequestID == "" || strings.Contains(message, e.RequestID) {
		return message
	}
	return fmt.Sprintf("%s (request %s)", message, e.RequestID)
}

// words translates terms of the API in error messages of the server to those of the
// command line.
var words = strings.NewReplacer(
	"?cascade=true", "-cascade", "&force=true", "-force", "?force=true", "-force", "expiresAt", "-expires", "accessPolicyId", "-policy",
	"displayName", "-display-name", "GET /admin/v1/aside", "'pallium aside list'", "POST /admin/v1/aside/drop", "'pallium aside drop'",
	"GET /admin/v1/ring", "'pallium ring list'", "POST /admin/v1/ring/leave?instance=", "pallium ring leave ",
)

func isStatus(err error, status int) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == status
}

// answer is a response of the server.
type answer struct {
	body []byte
	etag string
}

// path joins escaped path elements under the root of the API.
func path(parts ...string) string {
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/admin/v1/" + strings.Join(parts, "/")
}

// call sends a request. body is encoded as JSON unless it is nil, and the response is
// decoded into into unless that is nil.
func (s *session) call(ctx context.Context, method, path, etag string, body, into any) (answer, error) {
	token, from, err := s.token()
	if err != nil {
		return answer{}, err
	}
	if !s.patient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	req, err := s.request(ctx, method, path, body)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	a, err := send(req)
	if isStatus(err, http.StatusUnauthorized) {
		return a, fmt.Errorf("%w; the token was read from %s", err, from)
	}
	if err != nil {
		return a, err
	}
	if into != nil {
		if err := json.Unmarshal(a.body, into); err != nil {
			return a, fmt.Errorf("decode the response of %s (does its version differ from this one?): %w", s.url, err)
		}
	}
	return a, nil
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
	base, err := url.Parse(s.url)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, command.Misused("-admin-url (or PALLIUM_ADMIN_URL) %q must have the form http(s)://host[:port]", s.url)
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

func send(req *http.Request) (answer, error) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // never send the token to another server
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("the admin API cannot be reached: check that Pallium is running and that -admin-url is right: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, fmt.Errorf("read the server's response: %w", err)
	}
	if len(b) > maxAnswer {
		return answer{}, fmt.Errorf("the server's response is larger than %d bytes", maxAnswer)
	}
	if resp.StatusCode >= 300 {
		e := &apiError{Status: resp.StatusCode}
		if json.Unmarshal(b, e) != nil || e.Message == "" {
			e.Message = fmt.Sprintf("%s responded with %s: check that -admin-url is Pallium's admin listener", req.URL.Host, resp.Status)
		}
		return answer{}, e
	}
	return answer{body: b, etag: resp.Header.Get("ETag")}, nil
}

// token returns the admin token from the same sources as the server, and the source.
func (s *session) token() (token, from string, err error) {
	if t := s.Env("PALLIUM_ADMIN_TOKEN"); t != "" {
		return strings.TrimSpace(t), "PALLIUM_ADMIN_TOKEN", nil
	}
	file, from := s.Env("PALLIUM_ADMIN_TOKEN_FILE"), "PALLIUM_ADMIN_TOKEN_FILE"
	if file == "" {
		file, from = s.tokenFile(), s.tokenFile()
	}
	f, err := os.Open(file)
	if err != nil {
		return "", "", fmt.Errorf("no admin token: set PALLIUM_ADMIN_TOKEN or PALLIUM_ADMIN_TOKEN_FILE, or set -data-dir to the data "+
			"directory of the server: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return "", "", fmt.Errorf("read admin token: %w", err)
	}
	token = strings.TrimSpace(string(b))
	if token == "" {
		return "", "", fmt.Errorf("admin token file %s is empty", file)
	}
	return token, from, nil
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
				return nil, nil, fmt.Errorf("decode the response of %s (does its version differ from this one?): %w", s.url, err)
			}
			parsed, raw = append(parsed, v), append(raw, r)
		}
		if page.NextPageCursor == "" {
			return parsed, raw, nil
		}
		q.Set("pageCursor", page.NextPageCursor)
	}
}
