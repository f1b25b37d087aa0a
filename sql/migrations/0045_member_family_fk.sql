-- A row of the family belongs to the leaf of the same number of member, so each leaf refers to that leaf: upkeep adds the
-- constraints (`beside` in partitions/*.toml). A constraint between the parents looks at all 16 leaves for each row, which
-- was 40 % of what copying members in bulk took PostgreSQL.
alter table member_auth drop constraint member_auth_member_fk;
alter table member_profile_mall drop constraint member_profile_mall_member_fk;
alter table member_profile_sport drop constraint member_profile_sport_member_fk;
alter table member_role drop constraint member_role_member_fk;
alter table member_address drop constraint member_address_member_fk;
alter table member_device drop constraint member_device_member_fk;
alter table member_location drop constraint member_location_member_fk;
alter table member_tag drop constraint member_tag_member_fk;
