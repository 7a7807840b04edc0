package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// call is a recorded request and the response that the client accepts.
type call struct {
	method, path, body string
	headers            []string
	status, mediaType  string
	contains, answer   string // a part of the response, or all of it
	line               int
}

// mismatch returns how a response differs from the recorded one, or "". `put` is applied to the recorded one.
func (c *call) mismatch(put *strings.Replacer, status int, mediaType, text string) string {
	part, whole := put.Replace(c.contains), strings.TrimSpace(put.Replace(c.answer))
	same := strings.TrimSpace(text) == whole
	if c.contains != "" {
		same = strings.Contains(text, part)
	}
	if fmt.Sprint(status) == c.status && (mediaType == c.mediaType || c.mediaType == "" && text == "") && same {
		return ""
	}
	return fmt.Sprintf("line %d, %s %s: %d %s\n%s\nwant %s %s\n%s%s", c.line, c.method, c.path, status, mediaType, text, c.status, c.mediaType, part, whole)
}

// calls parses a recording: "> METHOD PATH", headers and an empty line if there are any, the body,
// "< STATUS MEDIA-TYPE", and the response or "~ " and a part of it. A response without a media type has no body.
func calls(t *testing.T, file string) []call {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []call
	var at *string
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case strings.HasPrefix(line, "> "):
			method, path, _ := strings.Cut(line[2:], " ")
			out = append(out, call{method: method, path: path, line: i + 1})
			at = &out[len(out)-1].body
		case len(out) == 0:
		case strings.HasPrefix(line, "< "):
			c := &out[len(out)-1]
			c.status, c.mediaType, _ = strings.Cut(line[2:], " ")
			at = &c.answer
		case strings.HasPrefix(line, "~ "):
			out[len(out)-1].contains = line[2:]
		default:
			*at += line + "\n"
		}
	}
	for i := range out {
		c := &out[i]
		if header, body, ok := strings.Cut(c.body, "\n\n"); ok && strings.HasPrefix(header, "Content-Type: ") {
			c.headers, c.body = []string{"Content-Type", strings.TrimPrefix(header, "Content-Type: ")}, body
		}
	}
	return out
}

// TestAlertmanagerClients sends the recorded requests of clients of Alertmanager's API to the edge, with a new tenant
// for each client, and checks the responses.
func TestAlertmanagerClients(t *testing.T) {
	noLeaks(t)
	p := start(t, testConfig(t), All, nil)
	defer p.stop()
	silence := regexp.MustCompile(`"silenceID":"([^"]+)"`)
	for _, client := range []string{"mimirtool", "amtool", "grafana"} {
		p.tenant(client)
		key := p.ruleKey(client, `"alerts:read","alerts:write"`)
		id := ""
		for _, c := range calls(t, filepath.Join("testdata", "alertmanager", client+".txt")) {
			put := strings.NewReplacer("$ID", id)
			status, mediaType, text := p.exchange(c.method, p.edge+put.Replace(c.path), key, strings.NewReader(put.Replace(c.body)),
				append([]string{"X-Scope-OrgID", client}, c.headers...)...)
			if why := c.mismatch(put, status, mediaType, text); why != "" {
				t.Errorf("%s.txt, %s", client, why)
			}
			if found := silence.FindStringSubmatch(text); found != nil {
				id = found[1]
			}
		}
	}
}

// TestRuleClients sends the recorded requests of clients of the rules API to the edge, with a new tenant for each
// client, and checks the responses.
func TestRuleClients(t *testing.T) {
	noLeaks(t)
	p := start(t, testConfig(t), All, nil)
	defer p.stop()
	for _, client := range []string{"mimirtool", "grafana"} {
		p.tenant(client)
		key := p.ruleKey(client, `"rules:read","rules:write","metrics:read"`)
		for _, c := range calls(t, filepath.Join("testdata", "ruler", client+".txt")) {
			var body strings.Reader
			body.Reset(c.body)
			send := func() string {
				body.Reset(c.body)
				status, mediaType, text := p.exchange(c.method, p.edge+c.path, key, &body, append([]string{"X-Scope-OrgID", client}, c.headers...)...)
				if why := c.mismatch(strings.NewReplacer(), status, mediaType, text); why != "" {
					return client + ".txt, " + why
				}
				return ""
			}
			if strings.Contains(c.path, "/api/v1/rules") && strings.HasPrefix(c.path, "/prometheus/") { // the ruler needs a moment
				eventually(t, send)
				continue
			}
			if why := send(); why != "" {
				t.Error(why)
			}
		}
	}
}
