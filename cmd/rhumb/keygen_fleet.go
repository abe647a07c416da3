package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
)

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
			life, err := lifetime(days)
			if err != nil {
				return badInput{err}
			}
			authority, err := fleet.NewAuthority(name, time.Now(), life)
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
