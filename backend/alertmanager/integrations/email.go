package integrations

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
	commoncfg "github.com/prometheus/common/config"
)

// emailNotifier sends emails like Alertmanager's notifier, which cannot be used because it opens connections without the
// dialer. There are two differences: the message is rendered before the connection is opened, and the domain of Message-Id
// is that of the sender, so that the name of this host is not revealed.
type emailNotifier struct {
	conf    *config.EmailConfig
	headers []header
	tmpl    *template.Template
	logger  *slog.Logger
	dialer  *dialer
	tls     *tls.Config
}

// header is a header of the message, whose value is a template.
type header struct{ name, value string }

func addEmail(ks []kind, confs []*config.EmailConfig) []kind {
	for i, c := range confs {
		ks = append(ks, kind{name: "email", index: i, conf: c, resolved: c,
			build: func(t *template.Template, l *slog.Logger, d *dialer) (notify.Notifier, error) {
				return newEmail(c, t, l, d)
			}})
	}
	return ks
}

func newEmail(c *config.EmailConfig, t *template.Template, l *slog.Logger, d *dialer) (*emailNotifier, error) {
	if c.Smarthost.Host == "" || c.Smarthost.Port == "" {
		return nil, errors.New("smarthost is required")
	}
	n := &emailNotifier{conf: c, tmpl: t, logger: l, dialer: d}
	settings := c.TLSConfig
	if settings == nil {
		settings = &commoncfg.TLSConfig{}
	}
	var err error
	if n.tls, err = commoncfg.NewTLSConfig(settings); err != nil {
		return nil, fmt.Errorf("tls_config: %w", err)
	}
	if n.tls.ServerName == "" {
		n.tls.ServerName = c.Smarthost.Host
	}
	n.headers, err = headersOf(c)
	return n, err
}

// headersOf returns the configured headers and the defaults of missing ones, in alphabetical order. It rejects names that
// could start another header, and headers that describe the body.
func headersOf(c *config.EmailConfig) ([]header, error) {
	all := map[string]string{"Subject": config.DefaultEmailSubject, "To": c.To, "From": c.From}
	for name, value := range c.Headers {
		if !isToken(name) {
			return nil, fmt.Errorf("headers: %q is not the name of a header", name)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Content-Type", "Mime-Version", "Content-Transfer-Encoding":
			return nil, fmt.Errorf("headers: %q is set by the server", name)
		}
		all[name] = value
	}
	hs := make([]header, 0, len(all))
	for name, value := range all {
		hs = append(hs, header{name, value})
	}
	slices.SortFunc(hs, func(a, b header) int { return strings.Compare(a.name, b.name) })
	return hs, nil
}

// isToken reports whether s consists of the characters of header names (RFC 5322, section 2.2).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return s != ""
}

// Notify sends one email.
func (n *emailNotifier) Notify(ctx context.Context, alerts ...*alert.Alert) (bool, error) {
	m, err := n.render(ctx, alerts)
	if err != nil {
		return false, notify.NewErrorWithReason(notify.ClientErrorReason, err)
	}
	c, err := n.connect(ctx)
	if err != nil {
		return true, err
	}
	defer func() { _ = c.Close() }()
	if err := n.login(c); err != nil {
		return true, err
	}
	if err := deliver(c, m); err != nil {
		return true, err
	}
	if err := c.Quit(); err != nil {
		n.logger.Debug("the mail server accepted an email but did not end the session in order", "err", err)
	}
	return false, nil
}

func deliver(c *smtp.Client, m *message) error {
	if err := c.Mail(m.from); err != nil {
		return fmt.Errorf("send MAIL command: %w", err)
	}
	for _, to := range m.to {
		if err := c.Rcpt(to); err != nil {
			return fmt.Errorf("send RCPT command: %w", err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("send DATA command: %w", err)
	}
	if _, err := w.Write(m.data); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	// Close ends the message. It is not called after an error, because the server would deliver an incomplete message.
	if err := w.Close(); err != nil {
		return fmt.Errorf("deliver message: %w", err)
	}
	return nil
}

// connect opens a session, over TLS if the configuration requires it. The connection is closed when the attempt ends.
func (n *emailNotifier) connect(ctx context.Context) (*smtp.Client, error) {
	implicit := n.conf.Smarthost.Port == "465"
	if n.conf.ForceImplicitTLS != nil {
		implicit = *n.conf.ForceImplicitTLS
	}
	var conn net.Conn
	conn, err := n.dialer.DialContext(ctx, "tcp", n.conf.Smarthost.String())
	if err != nil {
		return nil, fmt.Errorf("connect to the mail server: %w", err)
	}
	if implicit {
		secure := tls.Client(conn, n.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("establish TLS with the mail server: %w", err)
		}
		conn = secure
	}
	c, err := smtp.NewClient(conn, n.conf.Smarthost.Host)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("start a session with the mail server: %w", err)
	}
	if err := n.greet(c, implicit); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (n *emailNotifier) greet(c *smtp.Client, secure bool) error {
	if n.conf.Hello != "" {
		if err := c.Hello(n.conf.Hello); err != nil {
			return fmt.Errorf("send EHLO command: %w", err)
		}
	}
	required := n.conf.RequireTLS == nil || *n.conf.RequireTLS
	if !required || secure {
		return nil
	}
	if ok, _ := c.Extension("STARTTLS"); !ok {
		return fmt.Errorf("require_tls is true (the default), but the mail server %s does not advertise STARTTLS", n.conf.Smarthost)
	}
	if err := c.StartTLS(n.tls); err != nil {
		return fmt.Errorf("send STARTTLS command: %w", err)
	}
	return nil
}

// parseOne parses a list of addresses that must contain exactly one.
func parseOne(list string) (*mail.Address, error) {
	addresses, err := mail.ParseAddressList(list)
	if err != nil {
		return nil, err
	}
	if len(addresses) != 1 {
		return nil, fmt.Errorf("%d addresses, want exactly one", len(addresses))
	}
	return addresses[0], nil
}
