package alertmanager

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/prometheus/alertmanager/config"
	"gopkg.in/yaml.v2"
)

// Version is the version of Alertmanager in go.mod.
const Version = "0.34.1"

// status changes Alertmanager's response to a request for the status. It adds the version, and removes the defaults that
// Alertmanager adds to the configuration, because older versions of amtool reject new ones.
func (in *instance) status(out *recorder) (*Response, error) {
	var body map[string]any
	if err := json.Unmarshal(out.body.Bytes(), &body); err != nil {
		return nil, fmt.Errorf("decode the status: %w", err)
	}
	original, err := withoutDefaults(in.current.Load().compiled.Shown)
	if err != nil {
		return nil, err
	}
	if failed := in.current.Load().failed; failed != nil {
		original = "# The stored configuration does not run: " + strings.ReplaceAll(failed.Error(), "\n", "\n# ") + "\n" + original
	}
	body["config"] = map[string]any{"original": original}
	if info, ok := body["versionInfo"].(map[string]any); ok {
		info["version"] = Version
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the status: %w", err)
	}
	return &Response{Code: http.StatusOK, ContentType: "application/json", Body: append(text, '\n')}, nil
}

// withoutDefaults returns a configuration as YAML with hidden secrets. It removes global options with default values, and the
// labels that Alertmanager adds to receivers.
func withoutDefaults(c *config.Config) (string, error) {
	all, err := nodes(c)
	if err != nil {
		return "", err
	}
	global := config.DefaultGlobalConfig()
	defaults, err := nodes(&global)
	if err != nil {
		return "", err
	}
	var out yaml.MapSlice
	for _, item := range all {
		switch list := item.Value.(type) {
		case yaml.MapSlice:
			if item.Key == "global" {
				item.Value = prune(list, defaults)
			}
		case []any:
			if item.Key == "receivers" {
				for i := range list {
					if r, ok := list[i].(yaml.MapSlice); ok {
						list[i] = unlabeled(r)
					}
				}
			}
		}
		if empty, ok := item.Value.(yaml.MapSlice); !ok || len(empty) > 0 {
			out = append(out, item)
		}
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("encode the configuration: %w", err)
	}
	return string(text), nil
}

// nodes returns the YAML of a value as a tree.
func nodes(v any) (yaml.MapSlice, error) {
	text, err := yaml.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration: %w", err)
	}
	var out yaml.MapSlice
	if err := yaml.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("decode the configuration: %w", err)
	}
	return out, nil
}

// prune returns the items that differ from the defaults.
func prune(list, defaults yaml.MapSlice) yaml.MapSlice {
	var out yaml.MapSlice
	for _, item := range list {
		same := false
		for _, d := range defaults {
			same = same || reflect.DeepEqual(item, d)
		}
		if !same {
			out = append(out, item)
		}
	}
	return out
}

// unlabeled returns a receiver without its labels, if the name is the only label.
func unlabeled(r yaml.MapSlice) yaml.MapSlice {
	var out yaml.MapSlice
	for _, item := range r {
		if labels, ok := item.Value.(yaml.MapSlice); item.Key == "labels" && ok && len(labels) == 1 && labels[0].Key == "name" {
			continue
		}
		out = append(out, item)
	}
	return out
}
