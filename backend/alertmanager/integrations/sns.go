package integrations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
)

// Sizes of messages that SNS accepts.
const (
	maxSNSMessage = 256 << 10 // bytes
	maxSNSText    = 1600      // maximum size of a text message to a phone, in bytes
)

// snsNotifier publishes to AWS SNS. It uses only the receiver's configuration. Alertmanager's notifier cannot be used: it
// loads the default configuration of the AWS SDK, which reads the environment and files of the process (credentials,
// endpoints, profiles), and with AWS_CA_BUNDLE it opens connections without the dialer.
type snsNotifier struct {
	conf   *config.SNSConfig
	tmpl   *template.Template
	logger *slog.Logger
	client aws.HTTPClient
	creds  aws.CredentialsProvider
}

func addSNS(ks []kind, confs []*config.SNSConfig) []kind {
	for i, c := range confs {
		ks = append(ks, kind{name: "sns", index: i, conf: c, resolved: c, http: c.HTTPConfig,
			build: func(t *template.Template, l *slog.Logger, d *dialer) (notify.Notifier, error) {
				return newSNS(c, t, l, d)
			}})
	}
	return ks
}

func newSNS(c *config.SNSConfig, t *template.Template, l *slog.Logger, d *dialer) (*snsNotifier, error) {
	if c.Sigv4.Region == "" {
		return nil, errors.New("sigv4.region is required")
	}
	client := *c.HTTPConfig
	client.FollowRedirects = false // a signature is valid only for one host
	httpClient, err := notify.NewClientWithTracing(client, "sns", d.httpOptions()...)
	if err != nil {
		return nil, err
	}
	n := &snsNotifier{conf: c, tmpl: t, logger: l, client: httpClient}
	n.creds = credentials.NewStaticCredentialsProvider(c.Sigv4.AccessKey, string(c.Sigv4.SecretKey), "")
	if c.Sigv4.RoleARN != "" {
		n.creds = aws.NewCredentialsCache(n.role(n.creds))
	}
	return n, nil
}

// role returns the credentials of a role, which the tenant's own credentials assume.
func (n *snsNotifier) role(own aws.CredentialsProvider) aws.CredentialsProvider {
	fips := aws.FIPSEndpointStateDisabled
	if n.conf.Sigv4.UseFIPSSTSEndpoint {
		fips = aws.FIPSEndpointStateEnabled
	}
	client := sts.New(sts.Options{Region: n.conf.Sigv4.Region, Credentials: own, HTTPClient: n.client, RetryMaxAttempts: 1,
		EndpointOptions: sts.EndpointResolverOptions{UseFIPSEndpoint: fips}})
	return stscreds.NewAssumeRoleProvider(client, n.conf.Sigv4.RoleARN, func(o *stscreds.AssumeRoleOptions) {
		if n.conf.Sigv4.ExternalID != "" {
			o.ExternalID = aws.String(n.conf.Sigv4.ExternalID)
		}
		if n.conf.Sigv4.SessionName != "" {
			o.RoleSessionName = n.conf.Sigv4.SessionName
		}
	})
}

// Notify publishes one message. The client tries once: the caller retries.
func (n *snsNotifier) Notify(ctx context.Context, alerts ...*alert.Alert) (bool, error) {
	in, endpoint, err := n.render(ctx, alerts)
	if err != nil {
		return false, notify.NewErrorWithReason(notify.ClientErrorReason, err)
	}
	o := sns.Options{Region: n.conf.Sigv4.Region, Credentials: n.creds, HTTPClient: n.client, RetryMaxAttempts: 1}
	if endpoint != "" {
		o.BaseEndpoint = aws.String(endpoint)
	}
	out, err := sns.New(o).Publish(ctx, in)
	if err == nil {
		n.logger.Debug("published to SNS", "message_id", aws.ToString(out.MessageId))
		return false, nil
	}
	err = fmt.Errorf("publishing to SNS: %w", err)
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.HTTPStatusCode() == 0 {
		return true, err // there was no response
	}
	status := answer.HTTPStatusCode()
	return status/100 == 5, notify.NewErrorWithReason(notify.GetFailureReasonFromStatusCode(status), err)
}

// render executes the templates. It returns the error of the last template that failed.
func (n *snsNotifier) render(ctx context.Context, alerts []*alert.Alert) (in *sns.PublishInput, endpoint string, err error) {
	data := notify.GetTemplateData(ctx, n.tmpl, alerts, n.logger)
	text := notify.TmplText(n.tmpl, data, &err)
	optional := func(s string) *string {
		if s == "" {
			return nil
		}
		return aws.String(text(s))
	}
	endpoint = text(n.conf.APIUrl)
	in = &sns.PublishInput{TopicArn: optional(n.conf.TopicARN), PhoneNumber: optional(n.conf.PhoneNumber),
		TargetArn: optional(n.conf.TargetARN), Subject: optional(n.conf.Subject), MessageAttributes: map[string]snstypes.MessageAttributeValue{}}
	for name, value := range n.conf.Attributes {
		in.MessageAttributes[text(name)] = stringAttribute(text(value))
	}
	message := text(n.conf.Message)
	if err != nil {
		return nil, "", fmt.Errorf("executing the templates: %w", err)
	}
	if !utf8.ValidString(message) {
		return nil, "", errors.New("the message is not valid UTF-8")
	}
	limit := maxSNSMessage
	if in.PhoneNumber != nil {
		limit = maxSNSText
	}
	if short := cut(message, limit); short != message {
		message = short
		in.MessageAttributes["truncated"] = stringAttribute("true")
	}
	in.Message = aws.String(message)
	if strings.HasSuffix(aws.ToString(in.TopicArn), ".fifo") {
		key, err := notify.ExtractGroupKey(ctx)
		if err != nil {
			return nil, "", err
		}
		in.MessageDeduplicationId, in.MessageGroupId = aws.String(key.Hash()), aws.String(key.Hash())
	}
	return in, endpoint, nil
}

func stringAttribute(value string) snstypes.MessageAttributeValue {
	return snstypes.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String(value)}
}

// cut returns at most n bytes of s, and does not cut within a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
