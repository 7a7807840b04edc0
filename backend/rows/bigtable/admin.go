package bigtable

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/bigtable"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/backend/rows"
)

// dataLife is after how long the service may collect a cell of the Data family:
// writers put the expiry, less this, into its timestamp.
const dataLife = 400 * 24 * time.Hour

// Admin makes and changes the table; serving needs none of it, nor its rights.
type Admin struct {
	client *bigtable.AdminClient
	table  string
}

// OpenAdmin connects for administration.
func OpenAdmin(ctx context.Context, o Options) (*Admin, error) {
	opts, err := o.client()
	if err != nil {
		return nil, err
	}
	c, err := bigtable.NewAdminClient(ctx, o.Project, o.Instance, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to bigtable: %w", err)
	}
	return &Admin{client: c, table: o.Table}, nil
}

// Close ends the connection.
func (a *Admin) Close() error { return a.client.Close() }

// Ready reports whether the table has all families with their rules.
func (a *Admin) Ready(ctx context.Context) (bool, error) {
	families, err := a.families(ctx)
	if err != nil || families == nil {
		return false, err
	}
	for f, policy := range policies() {
		if families[string(f)] == policy.String() {
			continue
		}
		return false, nil
	}
	return true, nil
}

// families maps the table's families to their rules; nil when there is no table.
func (a *Admin) families(ctx context.Context) (map[string]string, error) {
	info, err := a.client.TableInfo(ctx, a.table)
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("bigtable: describe table %s: %w", a.table, err)
	}
	out := map[string]string{}
	for _, f := range info.FamilyInfos {
		out[f.Name] = f.GCPolicy
	}
	return out, nil
}

// policies are the rules of garbage collection. The rule of Data is the longest
// that a cell can need; retention is in the cells' timestamps.
func policies() map[rows.Family]bigtable.GCPolicy {
	return map[rows.Family]bigtable.GCPolicy{
		rows.Data:   bigtable.MaxAgePolicy(dataLife),
		rows.System: bigtable.MaxVersionsPolicy(1),
	}
}

// Create makes what is missing of the table, its families and their rules. It
// may be repeated.
func (a *Admin) Create(ctx context.Context) error {
	families, err := a.families(ctx)
	if err != nil {
		return err
	}
	if families == nil {
		if err := a.client.CreateTable(ctx, a.table); err != nil && status.Code(err) != codes.AlreadyExists {
			return fmt.Errorf("bigtable: create table %s: %w", a.table, err)
		}
	}
	for f, policy := range policies() {
		name := string(f)
		if _, ok := families[name]; !ok {
			if err := a.client.CreateColumnFamily(ctx, a.table, name); err != nil && status.Code(err) != codes.AlreadyExists {
				return fmt.Errorf("bigtable: create family %s: %w", name, err)
			}
		}
		// Always set: the rule given with a new family is not applied everywhere.
		if err := a.client.SetGCPolicy(ctx, a.table, name, policy); err != nil {
			return fmt.Errorf("bigtable: set rule of family %s: %w", name, err)
		}
	}
	return nil
}
