// What each target takes and gives, as tables that `buffers.h` checks against.

#ifndef RNNJAX_SIGNATURES_H_
#define RNNJAX_SIGNATURES_H_

#include <vector>

#include "buffers.h"

namespace rnnjax {

using In = const void*;
using Out = void*;
using ForwardIn = Field<Forward, In>;
using ForwardOut = Field<Forward, Out>;
using BackwardIn = Field<Backward, In>;
using BackwardOut = Field<Backward, Out>;

inline constexpr Presence kOptional = Presence::kOptional;
inline constexpr Presence kWithReset = Presence::kWithReset;

// What a target takes and gives, in order.
template <class Input, class Output>
struct Signature {
  const char* target;
  Widths widths;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
};

using ForwardSignature = Signature<ForwardIn, ForwardOut>;
using BackwardSignature = Signature<BackwardIn, BackwardOut>;

// The same target with what the backward pass will want.
inline ForwardSignature with(ForwardSignature signature, const char* target,
                             const std::vector<ForwardOut>& residuals) {
  signature.target = target;
  signature.outputs.insert(signature.outputs.end(), residuals.begin(),
                           residuals.end());
  return signature;
}

inline const ForwardIn kForwardMask = {"mask", "BT", nullptr, kOptional,
                                       &Forward::mask};
inline const ForwardIn kForwardReset = {"reset", "BT", nullptr, kOptional,
                                        &Forward::reset};
inline const BackwardIn kBackwardMask = {"mask", "BT", nullptr, kOptional,
                                         &Backward::mask};
inline const BackwardIn kBackwardReset = {"reset", "BT", nullptr, kOptional,
                                          &Backward::reset};

inline const ForwardSignature kLstmForward = {
    "rnnjax_lstm_forward",
    {4, 4},
    {{"xs", "BTI", &Forward::xs},
     {"w_ih", "IG", &Forward::w_ih},
     {"w_hh", "HG", &Forward::w_hh},
     {"b", "G", &Forward::bias},
     {"c0", "BH", &Forward::c0},
     {"h0", "BH", &Forward::h0},
     kForwardMask,
     kForwardReset,
     {"c_reset", "BH", &Forward::c_reset, kWithReset},
     {"h_reset", "BH", &Forward::h_reset, kWithReset}},
    {{"ys", "BTH", &Forward::ys},
     {"c_T", "BH", &Forward::c_last},
     {"h_T", "BH", &Forward::h_last}}};
inline const ForwardSignature kLstmForwardResiduals =
    with(kLstmForward, "rnnjax_lstm_forward_residuals",
         {{"gates", "BTS", &Forward::saved},
          {"c_prev", "BTH", &Forward::c_prev},
          {"h_prev", "BTH", &Forward::h_prev}});
inline const BackwardSignature kLstmBackward = {
    "rnnjax_lstm_backward",
    {4, 4},
    {{"gates", "BTS", &Backward::saved},
     {"c_prev", "BTH", &Backward::prev},
     {"w_hh", "HG", &Backward::w_hh},
     kBackwardMask,
     kBackwardReset,
     {"dys", "BTH", &Backward::dys},
     {"dc_T", "BH", &Backward::dc_last},
     {"dh_T", "BH", &Backward::dh_last}},
    {{"dz", "BTG", &Backward::dz},
     {"dc0", "BH", &Backward::dc0},
     {"dh0", "BH", &Backward::dh0},
     {"dc_reset", "BH", &Backward::dc_reset, kWithReset},
     {"dh_reset", "BH", &Backward::dh_reset, kWithReset}}};

inline const ForwardSignature kGruForward = {
    "rnnjax_gru_forward",
    {3, 4},
    {{"xs", "BTI", &Forward::xs},
     {"w_ih", "IG", &Forward::w_ih},
     {"w_hh", "HG", &Forward::w_hh},
     {"b", "G", &Forward::bias},
     {"b_hn", "H", &Forward::bias_hn},
     {"h0", "BH", &Forward::h0},
     kForwardMask,
     kForwardReset,
     {"h_reset", "BH", &Forward::h_reset, kWithReset}},
    {{"ys", "BTH", &Forward::ys}, {"h_T", "BH", &Forward::h_last}}};
inline const ForwardSignature kGruForwardResiduals =
    with(kGruForward, "rnnjax_gru_forward_residuals",
         {{"gates", "BTS", &Forward::saved},
          {"h_prev", "BTH", &Forward::h_prev}});
inline const BackwardSignature kGruBackward = {
    "rnnjax_gru_backward",
    {3, 4},
    {{"gates", "BTS", &Backward::saved},
     {"h_prev", "BTH", &Backward::prev},
     {"w_hh", "HG", &Backward::w_hh},
     kBackwardMask,
     kBackwardReset,
     {"dys", "BTH", &Backward::dys},
     {"dh_T", "BH", &Backward::dh_last}},
    {{"dz_input", "BTG", &Backward::dz_input},
     {"dz_hidden", "BTG", &Backward::dz},
     {"dh0", "BH", &Backward::dh0},
     {"dh_reset", "BH", &Backward::dh_reset, kWithReset}}};

inline const ForwardSignature kElmanForward = {
    "rnnjax_elman_forward",
    {1, 1},
    {{"xs", "BTI", &Forward::xs},
     {"w_ih", "IG", &Forward::w_ih},
     {"w_hh", "HG", &Forward::w_hh},
     {"b", "G", &Forward::bias},
     {"h0", "BH", &Forward::h0},
     kForwardMask,
     kForwardReset,
     {"h_reset", "BH", &Forward::h_reset, kWithReset}},
    {{"ys", "BTH", &Forward::ys}, {"h_T", "BH", &Forward::h_last}}};
inline const ForwardSignature kElmanForwardResiduals =
    with(kElmanForward, "rnnjax_elman_forward_residuals",
         {{"h_new", "BTS", &Forward::saved},
          {"h_prev", "BTH", &Forward::h_prev}});
inline const BackwardSignature kElmanBackward = {
    "rnnjax_elman_backward",
    {1, 1},
    {{"h_new", "BTS", &Backward::saved},
     {"w_hh", "HG", &Backward::w_hh},
     kBackwardMask,
     kBackwardReset,
     {"dys", "BTH", &Backward::dys},
     {"dh_T", "BH", &Backward::dh_last}},
    {{"dz", "BTG", &Backward::dz},
     {"dh0", "BH", &Backward::dh0},
     {"dh_reset", "BH", &Backward::dh_reset, kWithReset}}};

}  // namespace rnnjax

#endif  // RNNJAX_SIGNATURES_H_
