package integrations

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/egress"
)

// service responds like the services of all integrations.
func service(w http.ResponseWriter, r request) {
	switch {
	case strings.HasPrefix(r.path, "/slack"):
		_, _ = w.Write([]byte("ok"))
	case strings.HasPrefix(r.path, "/wechat/gettoken"):
		_, _ = w.Write([]byte(`{"access_token":"wechat-access"}`))
	case strings.HasPrefix(r.path, "/wechat"):
		_, _ = w.Write([]byte(`{"errcode":0}`))
	case strings.HasPrefix(r.path, "/bot"):
		_, _ = w.Write([]byte(`{"ok":true,"result":{"message_id":1,"chat":{"id":42}}}`))
	case strings.HasPrefix(r.path, "/jira/search"):
		_, _ = w.Write([]byte(`{"issues":[]}`))
	case strings.HasPrefix(r.path, "/rocketchat"):
		_, _ = w.Write([]byte(`{"success":true}`))
	case strings.HasPrefix(r.path, "/sns"):
		_, _ = w.Write([]byte(`<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>`))
	default:
		_, _ = w.Write([]byte(`{}`))
	}
}

// wanted returns, by integration, a text that each request for one alert must contain.
func wanted() map[string][]string {
	return map[string][]string{
		"webhook":    {`"alertname":"Down"`},
		"email":      nil, // has a server of its own
		"pagerduty":  {`"routing_key":"pagerduty-key"`},
		"opsgenie":   {"Authorization:[GenieKey opsgenie-key]"},
		"wechat":     {"corpsecret=wechat-secret", "access_token=wechat-access"},
		"slack":      {`"channel":"#alerts"`},
		"victorops":  {"/victorops/victorops-key/team"},
		"pushover":   {"api.pushover.net/1/messages.json?"},
		"sns":        {"Credential=AKIDTENANT/"},
		"telegram":   {"/bottelegram-token/sendMessage"},
		"discord":    {`"embeds":[{"title":"[FIRING:1] Down`},
		"webex":      {"Authorization:[Bearer webex-token]"},
		"msteams":    {`"type":"MessageCard"`},
		"msteamsv2":  {`"type":"AdaptiveCard"`},
		"jira":       {"/jira/search", "/jira/issue"},
		"incidentio": {"Authorization:[Bearer incidentio-token]"},
		"rocketchat": {"X-Auth-Token:[rocketchat-token]"},
		"mattermost": {"/mattermost"},
	}
}

// TestEachIntegration sends a notification with each type of integration of Alertmanager to servers on loopback, first with
// rules that deny this, then with rules that allow it. The test fails for a new type until it is in testdata/receivers.yaml.
func TestEachIntegration(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://proxy.invalid:1")
	t.Setenv("HTTPS_PROXY", "http://proxy.invalid:1")
	s := start(t, service)
	mail := startSMTP(t, smtpOptions{})
	text := strings.NewReplacer("PLAIN", s.address(), "SMTP", mail.address).Replace(readFile(t, "testdata/receivers.yaml"))
	r := load(t, text)
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Slice && v.Field(i).Len() == 0 {
			t.Errorf("testdata/receivers.yaml has no %s: check how the notifier connects, then add it", v.Type().Field(i).Name)
		}
	}
	allowed := build(t, r, optionsOf(s, allow(t, "127.0.0.1")))
	denied := build(t, r, optionsOf(s, allow(t)))
	if len(allowed) != len(wanted()) {
		t.Errorf("%d integrations, want %d", len(allowed), len(wanted()))
	}
	for i := range allowed {
		name := allowed[i].Name()
		before, connections := s.got()
		if retry, err := denied[i].Notify(flush(t), firing()); !errors.Is(err, egress.ErrDenied) || retry {
			t.Errorf("%s without allow: retry %t, %v", name, retry, err)
		}
		if after, n := s.got(); len(after) != len(before) || n != connections || name == "email" && len(mail.got()) > 0 {
			t.Errorf("%s reached a server without allow", name)
		}
		if _, err := allowed[i].Notify(flush(t), firing()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		after, _ := s.got()
		want, known := wanted()[name]
		if !known || len(after)-len(before) != len(want) {
			t.Errorf("%s made %d requests, want %d: %v", name, len(after)-len(before), len(want), after[len(before):])
			continue
		}
		for j, w := range want {
			if got := after[len(before)+j].String(); !strings.Contains(got, w) {
				t.Errorf("%s: request %d is %s, want %q in it", name, j, got, w)
			}
		}
	}
	if got := mail.got(); len(got) != 1 || !strings.Contains(got[0].data, "[FIRING:1] Down") {
		t.Errorf("emails: %+v", got)
	}
}

// TestOrder checks that order, names, indexes and send_resolved of integrations are the same as in Alertmanager.
func TestOrder(t *testing.T) {
	s := start(t, service)
	is := build(t, receiver(t, `slack_configs:
- {api_url: "http://a.example/", channel: x, send_resolved: true}
- {api_url: "http://b.example/", channel: x, send_resolved: false}
webhook_configs:
- {url: "http://c.example/", send_resolved: false}`), optionsOf(s, allow(t)))
	var got []string
	for i := range is {
		got = append(got, is[i].String())
		if is[i].SendResolved() != (is[i].String() == "slack[0]") {
			t.Errorf("send_resolved of %s is %t", is[i].String(), is[i].SendResolved())
		}
	}
	if text := strings.Join(got, " "); text != "webhook[0] slack[0] slack[1]" {
		t.Errorf("integrations %s", text)
	}
}

// TestBuildErrors checks that configurations are rejected if they would use something that belongs to the operator.
func TestBuildErrors(t *testing.T) {
	s := start(t, service)
	const webhook = "webhook_configs:\n- url: http://a.example/\n  http_config: "
	const sns = "sns_configs:\n- topic_arn: x\n  sigv4: "
	for _, tt := range []struct{ text, want string }{
		{"webhook_configs:\n- url_file: /etc/passwd", "URLFile is not allowed"},
		{webhook + "{proxy_url: http://proxy.example/}", "ProxyURL is not allowed"},
		{webhook + "{proxy_from_environment: true}", "ProxyFromEnvironment is not allowed"},
		{webhook + "{authorization: {credentials_file: /etc/passwd}}", "HTTPConfig.Authorization.CredentialsFile is not allowed"},
		{webhook + "{authorization: {credentials_ref: x}}", "CredentialsRef is not allowed"},
		{webhook + "{basic_auth: {username: x, password_file: /etc/passwd}}", "PasswordFile is not allowed"},
		{webhook + "{http_headers: {X-A: {files: [/etc/passwd]}}}", "Files is not allowed"},
		{webhook + "{tls_config: {ca_file: /etc/passwd}}", "CAFile is not allowed"},
		{webhook + "{tls_config: {ca: no certificate}}", "unable to use specified CA cert"},
		{webhook + "{oauth2: {client_id: x, client_secret: y, token_url: http://t.example/, proxy_url: http://p.example}}", "ProxyURL is not allowed"},
		{webhook + "{oauth2: {client_id: x, client_secret_file: /etc/passwd, token_url: http://t.example/}}", "ClientSecretFile is not allowed"},
		{sns + "{region: x, profile: operator, access_key: a, secret_key: b}", "Profile is not allowed"},
		{sns + "{region: x}", "sigv4.access_key and sigv4.secret_key are required"},
		{sns + "{region: x, role_arn: y}", "sigv4.access_key and sigv4.secret_key are required"},
		{sns + "{access_key: a, secret_key: b}", "sigv4.region is required"},
		{sns + "{region: x, access_key: a, secret_key: b}\n  use_aws_http_client: true", "UseAWSHTTPClient is not allowed"},
		{"email_configs:\n- {to: a@b.c, smarthost: 'h:25', auth_password_file: /etc/passwd}", "AuthPasswordFile is not allowed"},
		{"email_configs:\n- {to: a@b.c, smarthost: 'h:25', headers: {\"X-A: b\\r\\nBcc\": x}}", "is not the name of a header"},
		{"email_configs:\n- {to: a@b.c, smarthost: 'h:25', headers: {Content-Type: text/html}}", "is set by the server"},
	} {
		_, err := Build(receiver(t, tt.text), optionsOf(s, allow(t)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\n%v, want %q", tt.text, err, tt.want)
		}
	}
	r := receiver(t, "webhook_configs:\n- url: http://a.example/")
	r.WebhookConfigs[0].HTTPConfig = nil
	if _, err := Build(r, optionsOf(s, allow(t))); !errors.Is(err, errNoHTTP) {
		t.Errorf("a configuration that was not completed: %v", err)
	}
	if _, err := Build(r, Options{}); err == nil {
		t.Error("missing options were accepted")
	}
}
