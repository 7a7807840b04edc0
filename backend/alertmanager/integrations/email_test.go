package integrations

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/backend/egress"
)

func emailOptions(rules *egress.Rules) Options {
	return Options{Egress: rules, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
		Limiter: NewTenantLimiter(Rates{}), Pace: unpaced(), Templates: func() (Executor, error) { return newExecutor() }}
}

// email returns the YAML of an email integration to a server.
func email(s *smtpServer, fields string) string {
	return "email_configs:\n- {to: 'on call <a@example.com>, b@example.com', smarthost: '" + s.address + "', " +
		"tls_config: {insecure_skip_verify: true}, " + fields + "}"
}

// TestEmailSessions checks the sessions with servers that support different extensions, or fail.
func TestEmailSessions(t *testing.T) {
	const password, both = "auth_username: me, auth_password: auth-password", "auth_username: me, auth_password: auth-password, auth_secret: cram-secret"
	const plain = ", require_tls: false"
	for _, tt := range []struct {
		name   string
		server smtpOptions
		conf   string
		want   mailReceived // to and data are checked elsewhere
		err    string       // expected error; empty if the session succeeds
	}{
		{"plain", smtpOptions{}, "hello: client.example.com" + plain, mailReceived{hello: "client.example.com"}, ""},
		{"STARTTLS is required", smtpOptions{}, "send_resolved: true", mailReceived{}, "does not advertise STARTTLS"},
		{"STARTTLS", smtpOptions{starttls: true, auth: "PLAIN"}, password, mailReceived{tls: true, auth: "|me|auth-password"}, ""},
		{"STARTTLS is offered, not required", smtpOptions{starttls: true}, "hello: localhost" + plain, mailReceived{}, ""},
		{"identity", smtpOptions{starttls: true, auth: "PLAIN"}, "auth_identity: id, " + password, mailReceived{tls: true, auth: "id|me|auth-password"}, ""},
		{"implicit TLS", smtpOptions{implicit: true, auth: "LOGIN"}, "force_implicit_tls: true, " + password,
			mailReceived{tls: true, auth: "me|auth-password"}, ""},
		{"LOGIN", smtpOptions{auth: "XOAUTH2 LOGIN"}, password + plain, mailReceived{auth: "me|auth-password"}, ""},
		{"CRAM-MD5", smtpOptions{auth: "CRAM-MD5 PLAIN"}, both + plain, mailReceived{auth: "me|true"}, ""},
		{"CRAM-MD5 without its secret", smtpOptions{starttls: true, auth: "CRAM-MD5 PLAIN"}, password, mailReceived{tls: true, auth: "|me|auth-password"}, ""},
		{"no known mechanism", smtpOptions{auth: "XOAUTH2"}, password + plain, mailReceived{}, `mechanism "XOAUTH2" is not supported`},
		{"no password", smtpOptions{auth: "PLAIN"}, "auth_username: me" + plain, mailReceived{}, "auth_password is missing for PLAIN"},
		{"no user name", smtpOptions{auth: "PLAIN"}, "auth_password: auth-password" + plain, mailReceived{}, ""},
		{"no authentication offered", smtpOptions{}, password + plain, mailReceived{}, ""},
		{"TLS to a server without", smtpOptions{}, "force_implicit_tls: true", mailReceived{}, "establish TLS"},
		{"hello with a line break", smtpOptions{}, `hello: "a\r\nMAIL FROM:<x@example.com>"` + plain, mailReceived{}, "CR or LF"},
		{"drops at EHLO", smtpOptions{dropAt: "EHLO"}, "send_resolved: true" + plain, mailReceived{}, "EOF"},
		{"drops at MAIL", smtpOptions{dropAt: "MAIL"}, "send_resolved: true" + plain, mailReceived{}, "send MAIL command"},
		{"drops at DATA", smtpOptions{dropAt: "DATA"}, "send_resolved: true" + plain, mailReceived{}, "send DATA command"},
		{"drops at AUTH", smtpOptions{starttls: true, auth: "PLAIN", dropAt: "AUTH"}, password, mailReceived{}, "authenticate at the mail server"},
		{"drops at QUIT", smtpOptions{dropAt: "QUIT"}, "send_resolved: true" + plain, mailReceived{}, ""},
		{"rejects a recipient", smtpOptions{rejectAt: "RCPT"}, "send_resolved: true" + plain, mailReceived{}, "send RCPT command: 550"},
		{"endless response", smtpOptions{endlessAt: "EHLO"}, "hello: x" + plain, mailReceived{}, "the response is too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startSMTP(t, tt.server)
			retry, err := notifyOnce(t, email(s, tt.conf), emailOptions(allow(t, "127.0.0.1")))
			got := s.got()
			if tt.err != "" {
				if err == nil || !retry || !strings.Contains(err.Error(), tt.err) || len(got) != 0 {
					t.Errorf("retry %t, %v, want %q; %d emails", retry, err, tt.err, len(got))
				}
				return
			}
			if err != nil || len(got) != 1 {
				t.Fatalf("%v, %d emails", err, len(got))
			}
			if tt.want.hello == "" {
				tt.want.hello = "localhost"
			}
			if g := got[0]; g.hello != tt.want.hello || g.auth != tt.want.auth || g.tls != tt.want.tls {
				t.Errorf("hello %q, auth %q, TLS %t, want %+v", g.hello, g.auth, g.tls, tt.want)
			}
		})
	}
}

// TestEmailSilent checks that a session ends at the timeout of the attempt if the server stops responding, at each step.
func TestEmailSilent(t *testing.T) {
	for _, at := range []string{"CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA"} {
		s := startSMTP(t, smtpOptions{starttls: true, silentAt: at})
		o := emailOptions(allow(t, "127.0.0.1"))
		o.Limits.Timeout = 50e6
		if retry, err := notifyOnce(t, email(s, "send_resolved: true"), o); !retry || err == nil || reasonOf(err) != "timeout" {
			t.Errorf("%s: retry %t, %v", at, retry, err)
		}
	}
}

// TestEmailVerifiesCertificates checks that the name and issuer of a certificate are verified by default.
func TestEmailVerifiesCertificates(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		s := startSMTP(t, smtpOptions{starttls: true, implicit: implicit})
		conf := strings.Replace(email(s, "force_implicit_tls: false"), "insecure_skip_verify: true", "insecure_skip_verify: false", 1)
		if implicit {
			conf = strings.Replace(conf, "tls: false", "tls: true", 1)
		}
		if _, err := notifyOnce(t, conf, emailOptions(allow(t, "127.0.0.1"))); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("implicit %t: %v", implicit, err)
		}
	}
}

// send sends one email about an alert with a value of the label "cluster", and returns the email that arrived.
func send(t *testing.T, ctx context.Context, fields, cluster string) (mailReceived, *mail.Message) { //nolint:revive // the context is of the test
	t.Helper()
	s := startSMTP(t, smtpOptions{})
	is := build(t, receiver(t, email(s, fields+", require_tls: false")), emailOptions(allow(t, "127.0.0.1")))
	a := firing()
	a.Labels["cluster"] = model.LabelValue(cluster)
	if _, err := is[0].Notify(ctx, a); err != nil {
		t.Fatal(err)
	}
	got := s.got()[0]
	m, err := mail.ReadMessage(strings.NewReader(got.data))
	if err != nil {
		t.Fatalf("%v in\n%s", err, got.data)
	}
	return got, m
}

// TestEmailMessage checks the headers, the envelope and the parts of an email.
func TestEmailMessage(t *testing.T) {
	got, m := send(t, flush(t), `text: 'text {{ .CommonLabels.cluster }} é', html: '<b>{{ .CommonLabels.cluster }}</b>', `+
		`headers: {cc: c@example.com, x-cluster: '{{ .CommonLabels.cluster }}', subject: 'Größe'}`, "<eu>")
	if got.from != "FROM:<alerts@example.com> BODY=8BITMIME" || strings.Join(got.to, " ") != "TO:<a@example.com> TO:<b@example.com>" {
		t.Errorf("envelope from %s to %v", got.from, got.to)
	}
	decoded, _ := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	for name, want := range map[string]string{"To": "on call <a@example.com>, b@example.com", "From": "alerts@example.com",
		"Cc": "c@example.com", "X-Cluster": "<eu>", "Mime-Version": "1.0"} {
		if value := m.Header.Get(name); value != want {
			t.Errorf("header %s is %q, want %q", name, value, want)
		}
	}
	if _, err := m.Header.Date(); err != nil || decoded != "Größe" || len(m.Header["Subject"]) != 1 {
		t.Errorf("date %v, subject %q", err, decoded)
	}
	if id := m.Header.Get("Message-Id"); !strings.HasPrefix(id, "<") || !strings.HasSuffix(id, "@example.com>") || m.Header.Get("References") != "" {
		t.Errorf("Message-Id %s", id)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, p.Header.Get("Content-Type")+": "+string(body))
	}
	want := "text/plain; charset=UTF-8: text <eu> é|text/html; charset=UTF-8: <b>&lt;eu&gt;</b>"
	if got := strings.Join(parts, "|"); got != want {
		t.Errorf("parts %q, want %q", got, want)
	}
}

// TestEmailHeaderInjection checks that a line break in a label or in a field does not start another header or command.
func TestEmailHeaderInjection(t *testing.T) {
	for _, label := range []string{"x\r\nBcc: evil@example.com", "x\nBcc: evil@example.com", "x\r\n\r\n.\r\nMAIL FROM:<evil@example.com>", "x\rBcc: y"} {
		got, m := send(t, flush(t), `text: '{{ .CommonLabels.cluster }}', headers: {subject: '{{ .CommonLabels.cluster }}'}`, label)
		if m.Header.Get("Bcc") != "" || len(got.to) != 2 || !strings.HasPrefix(m.Header.Get("Subject"), "=?utf-8?q?") {
			t.Errorf("label %q: %s", label, got.data)
		}
	}
	s := startSMTP(t, smtpOptions{})
	for field, value := range map[string]string{"from": "a@example.com, b@example.com", "to": "nobody"} {
		list := "email_configs:\n- smarthost: '" + s.address + "'\n  to: a@example.com\n  require_tls: false\n  " + field + ": '" + value + "'"
		if field == "to" {
			list = strings.Replace(list, "  to: a@example.com\n", "", 1)
		}
		if retry, err := notifyOnce(t, list, emailOptions(allow(t, "127.0.0.1"))); retry || err == nil || len(s.got()) != 0 {
			t.Errorf("%s %q: retry %t, %v", field, value, retry, err)
		}
	}
}

// TestEmailThreads checks that the emails of an alert group refer to the same message ID, which is that of Alertmanager.
func TestEmailThreads(t *testing.T) {
	_, m := send(t, flush(t), "threading: {enabled: true, thread_by_date: none}", "eu")
	if got := m.Header.Get("References"); got != "<alert-af94c9e8f6a30436-@alertmanager>" || got != m.Header.Get("In-Reply-To") {
		t.Errorf("References %s, In-Reply-To %s", got, m.Header.Get("In-Reply-To"))
	}
	_, m = send(t, flush(t), "threading: {enabled: true, thread_by_date: daily}", "eu")
	if got := m.Header.Get("References"); len(got) != len("<alert-af94c9e8f6a30436-2026-11-30@alertmanager>") {
		t.Errorf("References %s", got)
	}
}
