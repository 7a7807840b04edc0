package admin

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
)

// The snippets that come with a new key are encoded from structs, so that all names
// are quoted correctly.

type authorization struct {
	Type        string `yaml:"type"`
	Credentials string `yaml:"credentials"`
}

type queueConfig struct {
	RetryOn429 bool `yaml:"retry_on_http_429"`
}

type remoteWrite struct {
	URL           string            `yaml:"url"`
	Authorization authorization     `yaml:"authorization"`
	Headers       map[string]string `yaml:"headers,omitempty"`
	QueueConfig   queueConfig       `yaml:"queue_config"`
}

// prometheusSnippet returns a part of prometheus.yml. Without retry_on_http_429
// Prometheus would drop samples that a rate limit rejects.
func prometheusSnippet(edge string, tenants []tenant.ID, key apikey.Key) (string, error) {
	rw := remoteWrite{
		URL:           edge + "/api/v1/push",
		Authorization: authorization{Type: "Bearer", Credentials: key.Text()},
		QueueConfig:   queueConfig{RetryOn429: true},
	}
	if len(tenants) > 1 {
		rw.Headers = map[string]string{tenant.HeaderOrgID: string(tenants[0])}
	}
	return encodeYAML(map[string]any{"remote_write": []remoteWrite{rw}})
}

type dataSource struct {
	Name           string            `yaml:"name"`
	Type           string            `yaml:"type"`
	Access         string            `yaml:"access"`
	URL            string            `yaml:"url"`
	JSONData       map[string]string `yaml:"jsonData"`
	SecureJSONData map[string]string `yaml:"secureJsonData"`
}

// grafanaSnippet returns a file for Grafana's directory provisioning/datasources.
func grafanaSnippet(edge string, tenants []tenant.ID, key apikey.Key) (string, error) {
	ds := dataSource{
		Name: "Pallium", Type: "prometheus", Access: "proxy", URL: edge + "/prometheus",
		JSONData:       map[string]string{"httpMethod": "POST", "httpHeaderName1": "Authorization"},
		SecureJSONData: map[string]string{"httpHeaderValue1": "Bearer " + key.Text()},
	}
	if len(tenants) > 0 {
		ds.Name += " " + string(tenants[0])
	}
	if len(tenants) > 1 {
		ds.JSONData["httpHeaderName2"] = tenant.HeaderOrgID
		ds.SecureJSONData["httpHeaderValue2"] = string(tenants[0])
	}
	return encodeYAML(struct {
		APIVersion  int          `yaml:"apiVersion"`
		DataSources []dataSource `yaml:"datasources"`
	}{1, []dataSource{ds}})
}

func encodeYAML(v any) (string, error) {
	b, err := yaml.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode snippet: %w", err)
	}
	return string(b), nil
}
