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

// Version is the version of Alertmanager whose packages run, as in go.mod.
const Version = "0.34.1"

// status completes the response of the status: the version of Alertmanager, and the configuration without what
// Alertmanager adds to it, because older versions of amtool do not know newer defaults.
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

// withoutDefaults returns a configuration as YAML, with its secrets hidden, without global options that have their
// defaults, and without the labels that Alertmanager adds to receivers.
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

// nodes returns a value as the nodes of its YAML.
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

// unlabeled returns a receiver without labels, if its name is the only one.
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
