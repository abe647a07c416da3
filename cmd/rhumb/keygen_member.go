package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
)

// keygenMember makes the command that certifies a region or a director.
func keygenMember(role fleet.Role) *cobra.Command {
	var (
		caFile, keyFile, dir string
		endpoints            []string
		slots, days          int
	)
	cmd := &cobra.Command{
		Use:   string(role) + " NAME",
		Short: fmt.Sprintf("Make the key and certificate of a %s, signed by the fleet's key", role),
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := memberRequest(role, args[0], endpoints, slots, days)
			if err != nil {
				return badInput{err}
			}
			authority, err := fleet.LoadAuthority(caFile, keyFile)
			if err != nil {
				return badInput{fmt.Errorf("%w (make a fleet with rhumb keygen fleet)", err)}
			}
			id, err := authority.Issue(request, time.Now())
			if err != nil {
				return badInput{err}
			}
			k := keyFiles{Expires: id.Cert.NotAfter, Note: fmt.Sprintf("Name them in the %s's configuration as fleet.cert_file and fleet.key_file.", role)}
			if err := k.save(id, dir, args[0]); err != nil {
				return err
			}
			return show(cmd, k)
		},
	}
	cmd.Flags().StringVar(&caFile, "fleet", "fleet.pem", "the fleet's certificate `file`")
	cmd.Flags().StringVar(&keyFile, "fleet-key", "fleet.key", "the fleet's key `file`")
	cmd.Flags().StringVar(&dir, "out", ".", "`folder` for the two files")
	cmd.Flags().IntVar(&days, "days", 365, "`days` until it expires")
	if role == fleet.RoleRegion {
		cmd.Flags().StringArrayVar(&endpoints, "endpoint", nil, "an endpoint that the region may publish, `URL[=ADDRESS,...]`; can be repeated")
		cmd.Flags().IntVar(&slots, "max-slots", 0, "the most `slots` that it may claim for a model; 0 is no limit")
	}
	return cmd
}

// parseGrant reads what a region may claim.
func parseGrant(endpoints []string, slots int) (fleet.Grant, error) {
	g := fleet.Grant{MaxSlots: slots}
	for _, s := range endpoints {
		url, list, _ := strings.Cut(s, "=")
		var addrs []netip.Addr
		for text := range strings.SplitSeq(list, ",") {
			if text == "" {
				continue
			}
			a, err := netip.ParseAddr(text)
			if err != nil {
				return g, fmt.Errorf("--endpoint %s: address %q: want https://host=192.0.2.1,2001:db8::1", s, text)
			}
			addrs = append(addrs, a)
		}
		e, err := regions.ParseEndpoint(url, addrs...)
		if err != nil {
			return g, fmt.Errorf("--endpoint %s: %w", s, err)
		}
		g.Endpoints = append(g.Endpoints, e)
	}
	return g, nil
}
