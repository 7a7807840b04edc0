package integrations

import (
	"log/slog"
	"maps"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/alertmanager/notify"
	amemail "github.com/prometheus/alertmanager/notify/email"
)

// TestEmailEqualsAlertmanager checks that the notifier of this package and Alertmanager's notifier send the same alerts with
// equal sessions, headers and parts, except for Message-Id, Date and the boundary of the parts, which differ in each email.
func TestEmailEqualsAlertmanager(t *testing.T) {
	for _, fields := range []string{
		"hello: client.example.com, require_tls: false",
		"auth_username: me, auth_password: auth-password, auth_identity: id",
		"require_tls: false, text: '{{ .CommonLabels.cluster }} äöü', html: ''",
		"require_tls: false, html: '', text: ''",
		`require_tls: false, headers: {subject: "{{ .Status }} é\n", Reply-To: r@example.com, Bcc: hidden@example.com, Message-Id: '<a@b>'}`,
		"require_tls: false, from: 'Größe <alerts@example.com>', threading: {enabled: true, thread_by_date: none}",
	} {
		s := startSMTP(t, smtpOptions{starttls: true, auth: "PLAIN LOGIN"})
		if _, err := notifyOnce(t, email(s, fields), emailOptions(allow(t, "127.0.0.1"))); err != nil {
			t.Fatalf("%s: %v", fields, err)
		}
		e, err := newExecutor()
		if err != nil {
			t.Fatal(err)
		}
		conf := receiver(t, email(s, fields)).EmailConfigs[0]
		if conf.Headers == nil {
			conf.Headers = map[string]string{}
		}
		var other notify.Notifier = amemail.New(conf, e.tmpl, slog.New(slog.DiscardHandler))
		if _, err := other.Notify(flush(t), firing()); err != nil {
			t.Fatalf("%s: Alertmanager: %v", fields, err)
		}
		got := s.got()
		if got, want := normalized(t, got[0]), normalized(t, got[1]); got != want {
			t.Errorf("%s:\n%s\nAlertmanager's email:\n%s", fields, got, want)
		}
	}
}

// normalized returns an email as text, without the parts that differ in each email.
func normalized(t *testing.T, r mailReceived) string {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(r.data))
	if err != nil {
		t.Fatalf("%v in\n%s", err, r.data)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	m.Header["Content-Type"] = []string{kind}
	m.Header["Date"] = []string{"a date"}
	if len(m.Header.Get("Message-Id")) > len("<a@b>") {
		m.Header["Message-Id"] = []string{"an id"}
	}
	lines := []string{r.hello, r.auth, r.from, strings.Join(r.to, " ")}
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		lines = append(lines, name+": "+strings.Join(m.Header[name], "|"))
	}
	_, body, _ := strings.Cut(r.data, "\n\n")
	return strings.Join(lines, "\n") + "\n\n" + strings.ReplaceAll(body, params["boundary"], "boundary")
}
