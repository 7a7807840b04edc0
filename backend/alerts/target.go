package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/notifier"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Config is the configuration of an Alertmanager, or of several with one DNS name.
type Config struct {
	// URL is the base URL. With dns+ before the scheme, alerts are sent to every address of the host name;
	// with dnssrv+, to every target of its SRV record, as in dnssrv+http://_web._tcp.alertmanager.
	URL string `yaml:"url"`
	// Tenants are the tenants whose alerts are sent there; empty means all tenants that no other
	// Alertmanager names.
	Tenants []string `yaml:"tenants"`
	// Username and PasswordFile are for basic authentication; BearerTokenFile is for a token. The files
	// are read again for every request.
	Username        string `yaml:"username"`
	PasswordFile    string `yaml:"password_file"`
	BearerTokenFile string `yaml:"bearer_token_file"`
	TLS             TLS    `yaml:"tls"`
}

// TLS configures connections to an Alertmanager.
type TLS struct {
	CAFile   string `yaml:"ca_file"` // empty means the system's certificates
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// client returns the settings of the HTTP client. Redirects are not followed, because most turn a POST into a GET, whose
// success would not mean that the alerts arrived.
func (c *Config) client(serverName string) config.HTTPClientConfig {
	out := config.DefaultHTTPClientConfig
	out.FollowRedirects = false
	out.TLSConfig = config.TLSConfig{CAFile: c.TLS.CAFile, CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, ServerName: serverName}
	if c.Username != "" || c.PasswordFile != "" {
		out.BasicAuth = &config.BasicAuth{Username: c.Username, PasswordFile: c.PasswordFile}
	}
	if c.BearerTokenFile != "" {
		out.Authorization = &config.Authorization{Type: "Bearer", CredentialsFile: c.BearerTokenFile}
	}
	return out
}

// Resolver looks up names; *net.Resolver implements it.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// The ways in which a Target is resolved.
const (
	lookupNone = "" // the dialer looks up the name for each connection
	lookupAll  = "dns"
	lookupSRV  = "dnssrv"
)

// Target is an Alertmanager, or several with one DNS name. It is safe for concurrent use.
type Target struct {
	name     string // the URL without its password
	tenants  []tenant.ID
	lookup   string
	base     *url.URL
	client   *http.Client
	resolver Resolver

	now func() time.Time
	// post sends alerts to the Alertmanager that Pallium runs for the tenant. It is set only for a target of NewLocal, which is
	// not resolved and has no HTTP client.
	post Post

	mu         sync.Mutex
	known      []string // host:port addresses of the last successful look-up
	failed     error    // error of the last look-up
	resolving  bool     // whether a caller is looking up the name
	resolvedAt time.Time
}

// NewTarget returns a Target that opens connections with `dial`, which may deny addresses.
func NewTarget(
	c Config, dial func(ctx context.Context, network, address string) (net.Conn, error), resolver Resolver, now func() time.Time,
) (*Target, error) {
	t := &Target{resolver: resolver, now: now}
	if err := t.parseURL(c.URL); err != nil {
		return nil, err
	}
	serverName := ""
	if t.lookup != lookupNone && t.base.Scheme == "https" {
		serverName = t.base.Hostname()
	}
	if err := t.restrict(c.Tenants); err != nil {
		return nil, err
	}
	settings := c.client(serverName)
	switch {
	case (c.Username == "") != (c.PasswordFile == ""):
		return nil, errors.New("username and password_file must be set together")
	case (c.TLS.CertFile == "") != (c.TLS.KeyFile == ""):
		return nil, errors.New("tls needs both cert_file and key_file")
	case settings.Validate() != nil:
		return nil, errors.New("choose username and password_file, or bearer_token_file, not both")
	}
	var err error
	if t.client, err = config.NewClientFromConfig(settings, "alertmanager", config.WithDialContextFunc(dial)); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return t, nil
}

// Local is the configured URL that stands for the Alertmanagers that Pallium itself runs.
const Local = "local"

// Post sends a request with alerts to the Alertmanager of a tenant, and returns the status and the text of the response.
type Post func(ctx context.Context, id tenant.ID, body []byte) (code int, text string, err error)

// NewLocal returns a Target for the Alertmanagers that Pallium itself runs. If `tenants` is empty, it is for all
// tenants that no other target names.
func NewLocal(tenants []string, post Post) (*Target, error) {
	t := &Target{name: Local, post: post}
	return t, t.restrict(tenants)
}

// restrict sets the tenants of the target. If the list is empty, the target is for all tenants that no other target names.
func (t *Target) restrict(tenants []string) error {
	for _, name := range tenants {
		id, err := tenant.ParseID(name)
		if err != nil {
			return fmt.Errorf("tenants: %w", err)
		}
		t.tenants = append(t.tenants, id)
	}
	return nil
}

// parseURL sets the URL, the name, and the kind of look-up.
func (t *Target) parseURL(text string) error {
	if before, after, ok := strings.Cut(text, "+"); ok && (before == lookupAll || before == lookupSRV) {
		t.lookup, text = before, after
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("url is not a valid URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("url %q must be http://host:port or https://host:port, with an optional path, and dns+ or dnssrv+ in front",
			u.Redacted())
	}
	t.base, t.name = u, u.Redacted()
	if t.lookup != lookupNone {
		t.name = t.lookup + "+" + t.name
	}
	return nil
}

// targetsOf returns the targets of a tenant: those that name it, or else those that name none.
func targetsOf(all []*Target, id tenant.ID) []*Target {
	var own, general []*Target
	for _, t := range all {
		switch {
		case len(t.tenants) == 0:
			general = append(general, t)
		case slices.Contains(t.tenants, id):
			own = append(own, t)
		}
	}
	if len(own) > 0 {
		return own
	}
	return general
}

const (
	resolveEvery = 30 * time.Second
	lookupTime   = 5 * time.Second
	sendTime     = 10 * time.Second
)

// addresses returns the host:port of each Alertmanager of the target. It looks up the name again when the last look-up is 30
// seconds old, or 5 seconds if it failed. Meanwhile, and while another caller looks up the name, it returns the last known
// addresses.
func (t *Target) addresses(ctx context.Context) ([]string, error) {
	if t.post != nil {
		return []string{Local}, nil
	}
	if t.lookup == lookupNone {
		return []string{t.base.Host}, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	every := resolveEvery
	if t.failed != nil {
		every = lookupTime
	}
	if (t.known != nil || t.failed != nil) && (t.resolving || now.Sub(t.resolvedAt).Abs() < every) {
		return t.result()
	}
	t.resolving = true
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	found, err := t.resolve(ctx)
	cancel()
	t.mu.Lock()
	t.resolving, t.resolvedAt = false, now
	if err == nil && len(found) == 0 {
		err = errors.New("the name resolves to no addresses")
	}
	if t.failed = err; err == nil {
		t.known = found
	}
	return t.result()
}

func (t *Target) result() ([]string, error) {
	if t.known == nil {
		return nil, fmt.Errorf("look up %s: %w", t.base.Host, t.failed)
	}
	return t.known, nil
}

func (t *Target) resolve(ctx context.Context) ([]string, error) {
	if t.lookup == lookupSRV {
		_, records, err := t.resolver.LookupSRV(ctx, "", "", t.base.Hostname())
		var out []string
		for _, r := range records {
			out = append(out, net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
		}
		slices.Sort(out)
		return slices.Compact(out), err
	}
	found, err := t.resolver.LookupNetIP(ctx, "ip", t.base.Hostname())
	port := t.base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[t.base.Scheme]
	}
	var out []string
	for _, a := range found {
		out = append(out, net.JoinHostPort(a.Unmap().String(), port))
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

// rejectedError is the error of a request that the Alertmanager rejected. It would also reject a repetition.
type rejectedError struct{ text string }

// Error implements error.
func (e *rejectedError) Error() string { return e.text }

// send sends alerts to one of the target's addresses.
func (t *Target) send(ctx context.Context, id tenant.ID, address string, batch []item) error {
	list := make([]*notifier.Alert, len(batch))
	for i := range batch {
		list[i] = batch[i].alert
	}
	body, err := json.Marshal(list)
	if err != nil {
		return &rejectedError{fmt.Sprintf("encode alerts: %v", err)}
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	if t.post != nil {
		code, text, err := t.post(ctx, id, body)
		if err != nil {
			return fmt.Errorf("send alerts: %w", err)
		}
		return answered(code, http.StatusText(code), text)
	}
	u := t.base.JoinPath("api/v2/alerts")
	u.Host = address
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return &rejectedError{fmt.Sprintf("prepare the request: %v", err)}
	}
	if t.lookup == lookupAll {
		req.Host = t.base.Host
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Pallium")
	resp, err := t.client.Do(req)
	if err != nil {
		return fmt.Errorf("send alerts: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // only for the error
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 == 3 {
		return fmt.Errorf("the Alertmanager redirects to %.200q (%s): configure that URL", resp.Header.Get("Location"), resp.Status)
	}
	return answered(resp.StatusCode, resp.Status, string(text))
}

// answered returns the error of a response, or nil.
func answered(code int, status, text string) error {
	switch {
	case code/100 == 2:
		return nil
	case code/100 == 4 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout:
		return &rejectedError{fmt.Sprintf("the Alertmanager answered %s: %.300q", status, text)}
	}
	return fmt.Errorf("the Alertmanager answered %s: %.300q", status, text)
}
