package tenantconfig

import (
	"reflect"

	"github.com/prometheus/alertmanager/config"
	amcommoncfg "github.com/prometheus/alertmanager/config/common"
	"github.com/prometheus/alertmanager/notify/discord"
	"github.com/prometheus/alertmanager/notify/incidentio"
	"github.com/prometheus/alertmanager/notify/jira"
	"github.com/prometheus/alertmanager/notify/mattermost"
	"github.com/prometheus/alertmanager/notify/msteams"
	"github.com/prometheus/alertmanager/notify/msteamsv2"
	"github.com/prometheus/alertmanager/notify/opsgenie"
	"github.com/prometheus/alertmanager/notify/pagerduty"
	"github.com/prometheus/alertmanager/notify/telegram"
	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/alertmanager/timeinterval"
	commoncfg "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/sigv4"
)

// rule is the kind of content that a field may have.
type rule int

const (
	unknown    rule = iota // not in the table; must not be set
	data                   // a value that is not executed, or a struct whose fields are in the table
	textRule               // executed as a template
	token                  // a secret that is not executed; {{ in it is probably a mistake, and is rejected
	secret                 // a secret that is not executed and may contain anything
	secretText             // a secret that is executed as a template
	names                  // label names
	nameValues             // values by label name; templates are rejected, because Alertmanager would execute them without limits
	free                   // values of any type; their strings and keys are executed as templates
	freeFields             // values of any type by name; the values are like those of free, the names are not executed
	textKeys               // strings by name, both executed as templates
	templates              // names of template files
	file                   // names a file of the server
	ref                    // names a secret of the server's secret manager
	proxy                  // sends requests through a proxy
	operator               // belongs to the operator
	profile                // names a profile in the server's files for AWS
	awsClient              // connects without the checks of addresses
	internal               // cannot be set in YAML
)

// columns contains the names of the fields of one struct by rule, separated by spaces.
type columns map[rule]string

// typ returns the key of a struct in the table.
func typ[T any]() reflect.Type { return reflect.TypeFor[T]() }

// table returns the rules of all structs of the configuration. TestTable fails if the fields differ from those of the used
// version of Alertmanager and its libraries: for a new field, decide here what it may contain. Fields that are not executed
// according to their rule must not contain {{. So a mistake in this table cannot lead to the execution of a tenant's template
// without limits.
func table() map[reflect.Type]columns {
	t := map[reflect.Type]columns{
		typ[config.Config](): {
			data:      "Global Route InhibitRules Receivers MuteTimeIntervals TimeIntervals",
			templates: "Templates",
			operator:  "TracingConfig EventRecorder",
			internal:  "original",
		},
		typ[config.GlobalConfig](): {
			data: "ResolveTimeout HTTPConfig JiraAPIURL SMTPHello SMTPSmarthost SMTPAuthUsername SMTPAuthIdentity SMTPRequireTLS SMTPTLSConfig " +
				"SMTPForceImplicitTLS SlackAppURL PagerdutyURL OpsGenieAPIURL WeChatAPIURL VictorOpsAPIURL TelegramAPIUrl WebexAPIURL RocketchatAPIURL",
			textRule: "SMTPFrom WeChatAPICorpID",
			secret:   "SMTPAuthPassword SMTPAuthSecret",
			token: "SlackAPIURL SlackAppToken OpsGenieAPIKey WeChatAPISecret VictorOpsAPIKey TelegramBotToken RocketchatToken RocketchatTokenID " +
				"MattermostWebhookURL",
			file: "SMTPAuthPasswordFile SMTPAuthSecretFile SlackAPIURLFile SlackAppTokenFile OpsGenieAPIKeyFile WeChatAPISecretFile " +
				"VictorOpsAPIKeyFile TelegramBotTokenFile RocketchatTokenFile RocketchatTokenIDFile MattermostWebhookURLFile",
		},
		typ[config.Route](): {
			data: "Receiver Match MatchRE Matchers MuteTimeIntervals ActiveTimeIntervals Continue Routes GroupWait GroupInterval " +
				"RepeatInterval",
			names:      "GroupByStr",
			nameValues: "Labels",
			internal:   "GroupBy GroupByAll",
		},
		typ[config.Receiver](): {
			data: "Name Labels DiscordConfigs EmailConfigs IncidentioConfigs PagerdutyConfigs SlackConfigs WebhookConfigs OpsGenieConfigs " +
				"WechatConfigs PushoverConfigs VictorOpsConfigs SNSConfigs TelegramConfigs WebexConfigs MSTeamsConfigs MSTeamsV2Configs " +
				"JiraConfigs RocketchatConfigs MattermostConfigs",
		},
		typ[config.MuteTimeInterval]():   {data: "Name TimeIntervals"},
		typ[config.TimeInterval]():       {data: "Name TimeIntervals"},
		typ[timeinterval.TimeInterval](): {data: "Times Weekdays DaysOfMonth Months Years Location"},
		typ[amcommoncfg.InhibitRule](): {
			data:  "Name SourceMatch SourceMatchRE SourceMatchers TargetMatch TargetMatchRE TargetMatchers",
			names: "Equal",
		},
	}
	addHTTP(t)
	addChats(t)
	addPagers(t)
	addOthers(t)
	return t
}

// addHTTP adds the rules of HTTP clients.
func addHTTP(t map[reflect.Type]columns) {
	t[typ[commoncfg.HTTPClientConfig]()] = columns{
		data:   "BasicAuth Authorization OAuth2 TLSConfig FollowRedirects EnableHTTP2 ProxyConfig HTTPHeaders",
		secret: "BearerToken",
		file:   "BearerTokenFile",
	}
	t[typ[commoncfg.ProxyConfig]()] = columns{
		proxy:    "ProxyURL NoProxy ProxyFromEnvironment ProxyConnectHeader",
		internal: "proxyFunc",
	}
	t[typ[commoncfg.BasicAuth]()] = columns{
		data: "Username", secret: "Password", file: "UsernameFile PasswordFile", ref: "UsernameRef PasswordRef",
	}
	t[typ[commoncfg.Authorization]()] = columns{data: "Type", secret: "Credentials", file: "CredentialsFile", ref: "CredentialsRef"}
	t[typ[commoncfg.OAuth2]()] = columns{
		data: "ClientID ClientCertificateKeyID GrantType SignatureAlgorithm Iss Audience Claims Scopes TokenURL EndpointParams TLSConfig " +
			"ProxyConfig",
		secret: "ClientSecret ClientCertificateKey",
		file:   "ClientSecretFile ClientCertificateKeyFile",
		ref:    "ClientSecretRef ClientCertificateKeyRef",
	}
	t[typ[commoncfg.TLSConfig]()] = columns{
		data:   "CA Cert ServerName InsecureSkipVerify MinVersion MaxVersion",
		secret: "Key", file: "CAFile CertFile KeyFile", ref: "CARef CertRef KeyRef",
	}
	t[typ[commoncfg.Headers]()] = columns{data: "Headers"}
	t[typ[commoncfg.Header]()] = columns{data: "Values", secret: "Secrets", file: "Files"}
	t[typ[amcommoncfg.NotifierConfig]()] = columns{data: "VSendResolved"}
}

// addChats adds the rules of chat integrations.
func addChats(t map[reflect.Type]columns) {
	t[typ[config.SlackConfig]()] = columns{
		data: "NotifierConfig HTTPConfig AppURL Fields ShortFields LinkNames MrkdwnIn Actions UpdateMessage Timeout",
		textRule: "Channel Username Color Title TitleLink Pretext Text MessageText Footer Fallback CallbackID IconEmoji IconURL " +
			"ImageURL ThumbURL",
		token: "APIURL AppToken",
		file:  "APIURLFile AppTokenFile",
	}
	t[typ[config.SlackField]()] = columns{data: "Short", textRule: "Title Value"}
	t[typ[config.SlackAction]()] = columns{data: "ConfirmField", textRule: "Type Text URL Style Name Value"}
	t[typ[config.SlackConfirmationField]()] = columns{textRule: "Text Title OkText DismissText"}
	t[typ[discord.DiscordConfig]()] = columns{
		data: "NotifierConfig HTTPConfig Username AvatarURL", textRule: "Content Title Message", token: "WebhookURL", file: "WebhookURLFile",
	}
	t[typ[mattermost.MattermostConfig]()] = columns{
		data: "NotifierConfig HTTPConfig Fields Attachments Props Priority",
		textRule: "Channel Username Text Fallback Color Pretext AuthorName AuthorLink AuthorIcon Title TitleLink ThumbURL Footer FooterIcon " +
			"ImageURL IconURL IconEmoji Type",
		token: "WebhookURL",
		file:  "WebhookURLFile",
	}
	t[typ[mattermost.MattermostField]()] = columns{data: "Short", textRule: "Title Value"}
	t[typ[mattermost.MattermostAttachment]()] = columns{
		data: "Fields",
		textRule: "Fallback Color Pretext Text AuthorName AuthorLink AuthorIcon Title TitleLink ThumbURL Footer FooterIcon " +
			"ImageURL",
	}
	t[typ[mattermost.MattermostProps]()] = columns{textRule: "Card"}
	t[typ[mattermost.MattermostPriority]()] = columns{data: "RequestedAck PersistentNotifications", textRule: "Priority"}
	t[typ[msteams.MSTeamsConfig]()] = columns{
		data: "NotifierConfig HTTPConfig", textRule: "Title Summary Text", token: "WebhookURL", file: "WebhookURLFile",
	}
	t[typ[msteamsv2.MSTeamsV2Config]()] = columns{
		data: "NotifierConfig HTTPConfig", textRule: "Title Text", token: "WebhookURL", file: "WebhookURLFile",
	}
	t[typ[config.RocketchatConfig]()] = columns{
		data:     "NotifierConfig HTTPConfig APIURL Fields ShortFields LinkNames Actions",
		textRule: "Channel Color Title TitleLink Text Emoji IconURL ImageURL ThumbURL",
		token:    "TokenID Token",
		file:     "TokenIDFile TokenFile",
	}
	t[typ[config.RocketchatAttachmentField]()] = columns{data: "Short", textRule: "Title Value"}
	t[typ[config.RocketchatAttachmentAction]()] = columns{
		data: "Type ImageURL IsWebView WebviewHeightRatio MsgInChatWindow MsgProcessingType", textRule: "Text URL Msg",
	}
	t[typ[telegram.TelegramConfig]()] = columns{
		data:     "NotifierConfig HTTPConfig APIUrl ChatID MessageThreadID DisableNotifications ParseMode",
		textRule: "Message", token: "BotToken", file: "BotTokenFile ChatIDFile",
	}
	t[typ[config.WebexConfig]()] = columns{data: "NotifierConfig HTTPConfig APIURL", textRule: "Message RoomID"}
	t[typ[config.WechatConfig]()] = columns{
		data:       "NotifierConfig HTTPConfig APIURL MessageType",
		textRule:   "CorpID Message ToUser ToParty ToTag AgentID",
		secretText: "APISecret",
		file:       "APISecretFile",
	}
}

// addPagers adds the rules of on-call integrations.
func addPagers(t map[reflect.Type]columns) {
	t[typ[pagerduty.PagerdutyConfig]()] = columns{
		data:       "NotifierConfig HTTPConfig URL Images Links Timeout",
		textRule:   "Client ClientURL Description Source Severity Class Component Group",
		freeFields: "Details",
		secretText: "ServiceKey RoutingKey",
		file:       "ServiceKeyFile RoutingKeyFile",
	}
	t[typ[pagerduty.PagerdutyLink]()] = columns{textRule: "Href Text"}
	t[typ[pagerduty.PagerdutyImage]()] = columns{textRule: "Src Alt Href"}
	t[typ[opsgenie.OpsGenieConfig]()] = columns{
		data:       "NotifierConfig HTTPConfig APIURL Responders UpdateAlerts",
		textRule:   "Message Description Source Details Entity Actions Tags Note Priority",
		secretText: "APIKey",
		file:       "APIKeyFile",
	}
	t[typ[opsgenie.OpsGenieConfigResponder]()] = columns{textRule: "ID Name Username Type"}
	t[typ[config.VictorOpsConfig]()] = columns{
		data:     "NotifierConfig HTTPConfig APIURL",
		textRule: "RoutingKey MessageType StateMessage EntityDisplayName MonitoringTool CustomFields",
		token:    "APIKey",
		file:     "APIKeyFile",
	}
	t[typ[config.PushoverConfig]()] = columns{
		data:       "NotifierConfig HTTPConfig Retry Expire TTL HTML Monospace",
		textRule:   "Title Message URL URLTitle Device Sound Priority",
		secretText: "UserKey Token",
		file:       "UserKeyFile TokenFile",
	}
	t[typ[incidentio.IncidentioConfig]()] = columns{
		data: "NotifierConfig HTTPConfig URL MaxAlerts Timeout", token: "AlertSourceToken", file: "URLFile AlertSourceTokenFile",
	}
}

// addOthers adds the rules of the other integrations.
func addOthers(t map[reflect.Type]columns) {
	t[typ[webhook.WebhookConfig]()] = columns{
		data: "NotifierConfig HTTPConfig MaxAlerts Timeout", free: "Payload", secretText: "URL", file: "URLFile",
	}
	t[typ[config.EmailConfig]()] = columns{
		data:     "NotifierConfig Hello Smarthost AuthUsername AuthIdentity RequireTLS TLSConfig ForceImplicitTLS Threading",
		textRule: "To From Headers HTML Text",
		secret:   "AuthPassword AuthSecret",
		file:     "AuthPasswordFile AuthSecretFile",
	}
	t[typ[config.ThreadingConfig]()] = columns{data: "Enabled ThreadByDate"}
	t[typ[config.SNSConfig]()] = columns{
		data:      "NotifierConfig HTTPConfig Sigv4",
		textRule:  "APIUrl TopicARN PhoneNumber TargetARN Subject Message",
		textKeys:  "Attributes",
		awsClient: "UseAWSHTTPClient",
	}
	t[typ[sigv4.SigV4Config]()] = columns{
		data:    "Region AccessKey RoleARN ExternalID SessionName Tags UseFIPSSTSEndpoint ServiceName",
		secret:  "SecretKey",
		profile: "Profile",
	}
	t[typ[jira.JiraConfig]()] = columns{
		data: "NotifierConfig HTTPConfig APIURL APIType Summary Description ReopenTransition ResolveTransition WontFixResolution " +
			"ReopenDuration",
		textRule:   "Project Labels Priority IssueType",
		freeFields: "Fields",
	}
	t[typ[jira.JiraFieldConfig]()] = columns{data: "EnableUpdate", textRule: "Template"}
}

// leaves returns the types with decoders of their own, whose fields are not fields of the configuration.
func leaves() map[reflect.Type]bool {
	return map[reflect.Type]bool{
		typ[config.HostPort]():              true,
		typ[amcommoncfg.URL]():              true,
		typ[amcommoncfg.SecretURL]():        true,
		typ[amcommoncfg.Regexp]():           true,
		typ[amcommoncfg.Matchers]():         true,
		typ[labels.Matcher]():               true,
		typ[timeinterval.TimeRange]():       true,
		typ[timeinterval.WeekdayRange]():    true,
		typ[timeinterval.DayOfMonthRange](): true,
		typ[timeinterval.MonthRange]():      true,
		typ[timeinterval.YearRange]():       true,
		typ[timeinterval.Location]():        true,
		typ[model.Duration]():               true,
		typ[commoncfg.TLSVersion]():         true,
	}
}
