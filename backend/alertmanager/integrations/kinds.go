package integrations

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/notify/discord"
	"github.com/prometheus/alertmanager/notify/incidentio"
	"github.com/prometheus/alertmanager/notify/jira"
	"github.com/prometheus/alertmanager/notify/mattermost"
	"github.com/prometheus/alertmanager/notify/msteams"
	"github.com/prometheus/alertmanager/notify/msteamsv2"
	"github.com/prometheus/alertmanager/notify/opsgenie"
	"github.com/prometheus/alertmanager/notify/pagerduty"
	"github.com/prometheus/alertmanager/notify/pushover"
	"github.com/prometheus/alertmanager/notify/rocketchat"
	"github.com/prometheus/alertmanager/notify/slack"
	"github.com/prometheus/alertmanager/notify/telegram"
	"github.com/prometheus/alertmanager/notify/victorops"
	"github.com/prometheus/alertmanager/notify/webex"
	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/alertmanager/notify/wechat"
	"github.com/prometheus/alertmanager/template"
	commoncfg "github.com/prometheus/common/config"
)

// errNoHTTP is returned for a configuration that was not completed by config.Load.
var errNoHTTP = errors.New("http_config is missing: load the configuration with config.Load")

// httpOptions are the options of a notifier's HTTP client.
type httpOptions = []commoncfg.HTTPClientOption

// kind describes one integration of a receiver, before it is built.
type kind struct {
	name     string
	index    int
	conf     any // pointer to the configuration
	resolved notify.ResolvedSender
	http     *commoncfg.HTTPClientConfig // nil if the integration does not use HTTP
	late     bool                        // whether the notifier executes templates after it has received a response
	headers  bool                        // whether the notifier adds credentials as headers, also after a redirect
	api      *url.URL                    // URL of the API, if the notifier does not pass its context to requests
	// build creates a notifier that opens connections only with d.
	build func(t *template.Template, l *slog.Logger, d *dialer) (notify.Notifier, error)
}

// configuration is the constraint of pointers to configurations of integrations.
type configuration[T any] interface {
	*T
	notify.ResolvedSender
}

// add appends the integrations of one type whose notifier is Alertmanager's. Each notifier gets a copy of the configuration,
// because some notifiers, such as pagerduty, change it while they notify.
func add[T any, C configuration[T], N notify.Notifier](
	ks []kind, name string, confs []C, client func(C) *commoncfg.HTTPClientConfig,
	build func(C, *template.Template, *slog.Logger, ...commoncfg.HTTPClientOption) (N, error),
) []kind {
	for i, c := range confs {
		ks = append(ks, kind{name: name, index: i, conf: c, resolved: c, http: client(c),
			build: func(t *template.Template, l *slog.Logger, d *dialer) (notify.Notifier, error) {
				own := *c
				return build(&own, t, l, d.httpOptions()...)
			}})
	}
	return ks
}

// kindsOf returns the integrations of a receiver, in Alertmanager's order. It returns an error for an integration that this
// package does not know, because nobody has checked how it connects.
func kindsOf(r config.Receiver) ([]kind, error) {
	type client = commoncfg.HTTPClientConfig
	var ks []kind
	ks = add(ks, "webhook", r.WebhookConfigs, func(c *webhook.WebhookConfig) *client { return c.HTTPConfig }, webhook.New)
	ks = addEmail(ks, r.EmailConfigs)
	ks = add(ks, "pagerduty", r.PagerdutyConfigs, func(c *pagerduty.PagerdutyConfig) *client { return c.HTTPConfig }, pagerduty.New)
	ks = add(ks, "opsgenie", r.OpsGenieConfigs, func(c *opsgenie.OpsGenieConfig) *client { return c.HTTPConfig }, opsgenie.New)
	ks = add(ks, "wechat", r.WechatConfigs, func(c *config.WechatConfig) *client { return c.HTTPConfig }, wechat.New)
	ks = add(ks, "slack", r.SlackConfigs, func(c *config.SlackConfig) *client { return c.HTTPConfig }, slack.New)
	ks = add(ks, "victorops", r.VictorOpsConfigs, func(c *config.VictorOpsConfig) *client { return c.HTTPConfig }, victorops.New)
	ks = add(ks, "pushover", r.PushoverConfigs, func(c *config.PushoverConfig) *client { return c.HTTPConfig }, pushover.New)
	ks = addSNS(ks, r.SNSConfigs)
	ks = addTelegram(ks, r.TelegramConfigs)
	ks = add(ks, "discord", r.DiscordConfigs, func(c *discord.DiscordConfig) *client { return c.HTTPConfig }, discord.New)
	ks = add(ks, "webex", r.WebexConfigs, func(c *config.WebexConfig) *client { return c.HTTPConfig }, webex.New)
	ks = add(ks, "msteams", r.MSTeamsConfigs, func(c *msteams.MSTeamsConfig) *client { return c.HTTPConfig }, msteams.New)
	ks = add(ks, "msteamsv2", r.MSTeamsV2Configs, func(c *msteamsv2.MSTeamsV2Config) *client { return c.HTTPConfig }, msteamsv2.New)
	ks = add(ks, "jira", r.JiraConfigs, func(c *jira.JiraConfig) *client { return c.HTTPConfig }, jira.New)
	ks = add(ks, "incidentio", r.IncidentioConfigs, func(c *incidentio.IncidentioConfig) *client { return c.HTTPConfig }, incidentio.New)
	ks = add(ks, "rocketchat", r.RocketchatConfigs, func(c *config.RocketchatConfig) *client { return c.HTTPConfig }, rocketchat.New)
	ks = add(ks, "mattermost", r.MattermostConfigs, func(c *mattermost.MattermostConfig) *client { return c.HTTPConfig }, mattermost.New)
	for i, k := range ks {
		if k.name != "email" && k.http == nil {
			return nil, fmt.Errorf("receiver %q: %s[%d]: %w", r.Name, k.name, k.index, errNoHTTP)
		}
		ks[i].late = k.name == "jira" || k.name == "wechat"
		ks[i].headers = k.name == "rocketchat" // X-Auth-Token and X-User-Id, set by its round tripper on every hop
	}
	if n := configured(r); n != len(ks) {
		return nil, fmt.Errorf("receiver %q: %d of %d integrations have a type that is not supported", r.Name, n-len(ks), n)
	}
	return ks, nil
}

// configured returns the number of integrations of a receiver, of all types that Alertmanager has.
func configured(r config.Receiver) int {
	n := 0
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Slice {
			n += v.Field(i).Len()
		}
	}
	return n
}

func addTelegram(ks []kind, confs []*telegram.TelegramConfig) []kind {
	first := len(ks)
	ks = add(ks, "telegram", confs, func(c *telegram.TelegramConfig) *commoncfg.HTTPClientConfig { return c.HTTPConfig }, telegram.New)
	for i, c := range confs {
		if c.APIUrl != nil {
			ks[first+i].api = c.APIUrl.URL
		}
	}
	return ks
}
