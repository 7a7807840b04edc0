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

// dataLife is the age at which Bigtable may collect a cell of the Data family. Writers
// derive the timestamp of a cell from its expiry, so that the cell is not collected
// earlier.
const dataLife = 400 * 24 * time.Hour

// Admin creates and changes the table. Serving needs neither Admin nor its permissions.
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

// Close closes the connection.
func (a *Admin) Close() error { return a.client.Close() }

// Ready reports whether the table has all column families with their garbage collection
// rules.
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

// families returns the garbage collection rules of the table's families, or nil if the
// table does not exist.
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

// policies returns the garbage collection rules of the families. The rule of Data is the
// same for all tenants; their retention is part of the timestamps of cells.
func policies() map[rows.Family]bigtable.GCPolicy {
	return map[rows.Family]bigtable.GCPolicy{
		rows.Data:   bigtable.MaxAgePolicy(dataLife),
		rows.System: bigtable.MaxVersionsPolicy(1),
	}
}

// Create creates the table and its families unless they exist, and sets their rules. It is
// idempotent.
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
		// Always set the rule: not every server applies one given with a new family.
		if err := a.client.SetGCPolicy(ctx, a.table, name, policy); err != nil {
			return fmt.Errorf("bigtable: set garbage collection rule of family %s: %w", name, err)
		}
	}
	return nil
}
