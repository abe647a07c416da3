package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
)

const day = 24 * time.Hour

func newKeygen() *cobra.Command {
	return newGroup("keygen", "Make the keys of a fleet, and API keys of a gateway",
		keygenFleet(), keygenMember(fleet.RoleRegion), keygenMember(fleet.RoleDirector), keygenGossip(), keygenPepper(), keygenKey())
}

// keyFiles are the two files that a keygen command wrote.
type keyFiles struct {
	Cert    string    `json:"cert_file"`
	Key     string    `json:"key_file"`
	Expires time.Time `json:"expires"`
	Note    string    `json:"note"`
}

// String is what a person needs to know of them.
func (k keyFiles) String() string {
	return fmt.Sprintf("certificate  %s\nkey          %s\nexpires      %s\n%s", k.Cert, k.Key, k.Expires.Format(time.DateOnly), k.Note)
}

// save writes a pair as NAME.pem and NAME.key into a folder.
func (k *keyFiles) save(p fleet.PEMs, dir, name string) error {
	k.Cert, k.Key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	if err := fleet.Save(p, k.Cert, k.Key); err != nil {
		return badInput{err}
	}
	return nil
}

func keygenFleet() *cobra.Command {
	var name, dir string
	var days int
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Make a fleet: its certificate, which every member trusts, and its key",
		Long: `Make a fleet: fleet.pem, the certificate that every member trusts (fleet.ca_file),
and fleet.key, which signs the certificates of regions and directors. Keep the
key offline: who has it can be any region.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			authority, err := fleet.NewAuthority(name, time.Now(), time.Duration(days)*day)
			if err != nil {
				return badInput{err}
			}
			k := keyFiles{Expires: authority.NotAfter(), Note: "Give the certificate to all members; keep the key offline."}
			if err := k.save(authority, dir, "fleet"); err != nil {
				return err
			}
			return show(cmd, k)
		},
	}
	cmd.Flags().StringVar(&name, "name", "rhumb", "the fleet's `name`, for people")
	cmd.Flags().StringVar(&dir, "out", ".", "`folder` for the two files")
	cmd.Flags().IntVar(&days, "days", 3650, "`days` until it expires, and all certificates with it")
	return cmd
}
