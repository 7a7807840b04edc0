package integrations

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSNSIgnoresTheProcess checks that the environment and the files of the process have no influence: requests are sent to
// the endpoint of the configured region, and are signed with the tenant's key.
func TestSNSIgnoresTheProcess(t *testing.T) {
	dir := t.TempDir()
	ca, shared := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "config")
	for name, text := range map[string]string{ca: "no certificate", shared: "[default]\nregion = us-east-1\nendpoint_url = http://files.example\n" +
		"aws_access_key_id = AKIDFILE\naws_secret_access_key = x\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"AWS_CA_BUNDLE": ca, "AWS_CONFIG_FILE": shared, "AWS_SHARED_CREDENTIALS_FILE": shared,
		"AWS_ACCESS_KEY_ID": "AKIDPROCESS", "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "process-token", "AWS_REGION": "us-east-1",
		"AWS_ENDPOINT_URL": "http://environment.example", "AWS_ENDPOINT_URL_SNS": "http://environment.example",
		"AWS_ENDPOINT_URL_STS": "http://environment.example", "HTTPS_PROXY": "http://proxy.invalid:1", "HTTP_PROXY": "http://proxy.invalid:1",
		"AWS_USE_FIPS_ENDPOINT": "true",
	} {
		t.Setenv(name, value)
	}
	const conf = "sns_configs:\n- topic_arn: x\n  message: '%s'\n  sigv4: {region: eu-west-1, access_key: AKIDTENANT, secret_key: y%s}"
	s := start(t, func(w http.ResponseWriter, r request) {
		if strings.HasPrefix(r.host, "sts.") {
			_, _ = w.Write([]byte("<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>AKIDROLE</AccessKeyId>" +
				"<SecretAccessKey>z</SecretAccessKey><SessionToken>role-token</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>" +
				"</Credentials></AssumeRoleResult></AssumeRoleResponse>"))
			return
		}
		service(w, r)
	})
	o := optionsOf(s, allow(t, "127.0.0.1"))
	if _, err := notifyOnce(t, strings.NewReplacer("'%s'", "hello", "%s", "").Replace(conf), o); err != nil {
		t.Fatal(err)
	}
	if _, err := notifyOnce(t, strings.NewReplacer("'%s'", "hello", "%s", ", role_arn: 'arn:aws:iam::1:role/r'").Replace(conf)+
		"\n  http_config: {http_headers: {X-A: {values: [b]}}, tls_config: {insecure_skip_verify: true}}", o); err != nil {
		t.Fatal(err)
	}
	got, _ := s.got()
	if len(got) != 3 {
		t.Fatalf("requests %v", got)
	}
	for i, want := range []struct{ host, key, token string }{
		{"sns.eu-west-1.amazonaws.com", "AKIDTENANT", ""}, {"sts.eu-west-1.amazonaws.com", "AKIDTENANT", ""},
		{"sns.eu-west-1.amazonaws.com", "AKIDROLE", "role-token"},
	} {
		r := got[i]
		if r.host != want.host || !strings.Contains(r.header.Get("Authorization"), "Credential="+want.key+"/") ||
			r.header.Get("X-Amz-Security-Token") != want.token {
			t.Errorf("request %d: %s, want %+v", i, r, want)
		}
	}
}

// TestSNSMessages checks the requests to publish a message.
func TestSNSMessages(t *testing.T) {
	for _, tt := range []struct{ name, conf, want, not string }{
		{"fifo topic", "topic_arn: x.fifo", "MessageDeduplicationId=", "truncated"},
		{"topic", "topic_arn: x", "TopicArn=x", "MessageDeduplicationId"},
		{"long text to a phone", "phone_number: '+1'\n  message: '" + strings.Repeat("é", 801) + "'", "MessageAttributes.entry.1.Name=truncated", "TopicArn"},
		{"attributes", "target_arn: x\n  subject: '{{ .Status }}'\n  attributes: {a: '{{ .CommonLabels.cluster }}'}",
			"MessageAttributes.entry.1.Value.StringValue=eu&Subject=firing", "TopicArn"},
	} {
		s := start(t, service)
		list := "sns_configs:\n- sigv4: {region: eu-west-1, access_key: a, secret_key: b}\n  api_url: http://a.example/sns\n  " + tt.conf
		if _, err := notifyOnce(t, list, optionsOf(s, allow(t, "127.0.0.1"))); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		got, _ := s.got()
		if !strings.Contains(got[0].body, tt.want) && !hasParts(got[0].body, tt.want) || strings.Contains(got[0].body, tt.not) {
			t.Errorf("%s: %s, want %q and not %q", tt.name, got[0].body, tt.want, tt.not)
		}
	}
	s := start(t, service)
	retry, err := notifyOnce(t, "sns_configs:\n- {sigv4: {region: x, access_key: a, secret_key: b}, topic_arn: x, message: '{{ template \"none\" }}'}",
		optionsOf(s, allow(t, "127.0.0.1")))
	if _, n := s.got(); retry || err == nil || n != 0 || errors.Is(err, errTimeout) {
		t.Errorf("a template that fails: retry %t, %v, %d connections", retry, err, n)
	}
}

// hasParts reports whether the body contains each parameter of a query, in any order.
func hasParts(body, query string) bool {
	for part := range strings.SplitSeq(query, "&") {
		if !strings.Contains(body, part) {
			return false
		}
	}
	return true
}
