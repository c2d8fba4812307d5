"""The demo model's word pieces: whole words of radiology and letters for the rest."""

from __future__ import annotations

import re
import string

from ..demo import reports
from ..prompts import prompt_grammars

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Endings and beginnings that keep an unknown word from falling into letters.
ENDINGS = """
    s es ed ing er or al ial ally ly ic ical ous ive ion tion ation ment ness ity ism ist itis osis
    oma oid able ible ar ary ory ure ate ated ates ating ize ized y ies ia emia ectasis pathy plasty
    ectomy ostomy otomy gram graphy graph scopy plegia algia pnea trophy megaly sternal clavicular
    vascular costal basal hilar pleural thoracic vertebral lateral
""".split()
BEGINNINGS = """
    a an anti bi bio brach bronch card cardio cer chest cost de dia dis en endo ex extra gastro hemi
    hepato hyper hypo im in infra inter intra intro kyph lob lord media meso micro mid mis multi neo
    non osteo over para patho per peri phren pleur pneumo post pre pro pseudo pulm re retro scolio
    semi spond stern sub super supra thorac trans tri ultra un under vaso ventr vertebr
""".split()
# Common words of chest reports, written down from general knowledge of the field.
WORDS = """
    a about above abdomen abdominal abnormal abnormalities abnormality abscess absence absent abut
    accentuated according active acute adenopathy adequate adjacent admission advanced after again
    age air airspace airway airways all along also alveolar although an anatomic anatomy and
    aneurysm angle angles ankylosing anterior any aorta aortic ap apex apical apices apparent
    appear appearance appearances appearing appears approximately arch are area areas artery
    arthritis artifact as aspect aspiration asthma asymmetric asymmetry at atelectasis
    atelectatic atherosclerosis atherosclerotic atrial atrium available away axilla azygos
    background band bandlike bands base based baseline bases basilar be because been before
    behind below benign best better between bibasilar bilateral bilaterally biopsy blunted
    blunting body bone bones bony borderline both bowel breast bronchi bronchial bronchiectasis
    bronchitis bronchogram bronchograms bronchovascular bronchus bullae bullous but by bypass
    calcification calcifications calcified can cancer cannot carcinoma cardiac cardiomediastinal
    cardiomegaly cardiophrenic cardiopulmonary cardiothoracic carina catheter catheters cavitary
    cavitation cavity center central cervical change changed changes characteristic chest chf
    chronic circumscribed clavicle clavicles clear cleared clearing clinical clip clips
    collapse collection compare compared comparison compatible complete completely compressed
    compression concern concerning concordant condition configuration confluent congested
    congestion congestive consider consistent consolidation consolidations consolidative
    contain contour contours contrast copd coronary correlate correlation costophrenic cough
    could course covid crowding ct current cystic date days decrease decreased deep
    deformity degenerative degree demonstrate demonstrated demonstrates dense densities density
    depressed detected deviated deviation device devices diagnosis diameter diaphragm
    diaphragmatic difference difficult diffuse diffusely dilated diminished direct disc discoid
    disease disk dislocation displaced displacement distal distended distribution dome due
    dyspnea each early edema edges effusion effusions either elevated elevation emphysema
    emphysematous empyema end endotracheal enlarged enlargement entire equivocal essentially
    etiology evaluate evaluated evaluation eventration evidence evident evolving exam
    examination exclude excluded expanded expansion expected expiratory exposure extending
    extends extensive extent faint fat features feeding few fever fibrosis fibrotic field fields
    film filling findings finding fine first fissure fissures flat flattened flattening fluid
    focal foci focus followup follow following for foreign formation fracture fractures free
    frontal from full fully further gas gastric general generalized given gland globular good
    grade granuloma granulomas granulomata granulomatous great greater gross grossly ground
    glass has have haze haziness hazy healed healing heart height hematoma hemidiaphragm
    hemidiaphragms hemithorax hemorrhage hepatic hernia hiatal high hila hilar hilum history
    hydropneumothorax hyperexpanded hyperexpansion hyperinflated hyperinflation hyperlucency
    hypertension hypoinflated hypoinflation hypoventilatory if ill image images imaging implant
    implanted impression improved improvement in incidental include includes including
    incompletely increase increased increasing indeterminate indicate indicated indistinct
    infection infectious inferior infiltrate infiltrates infiltration inflammation inflammatory
    inflated inflation infrahilar inhomogeneous inspiration inspiratory intact internal
    interposition interstitial interstitium interval intraperitoneal intubated intubation
    involving is it its joint jugular keeping known kyphosis kyphotic large larger lateral
    laterally lead leads left leftward less lesion lesions level likely limit limited limits
    line linear lines lingula lingular liver lobar lobe lobectomy lobes lobulated localized
    located location long loss low lower lucency lucencies lumbar lung lungs lymph
    lymphadenopathy lymphoma made magnified major malignancy malignant man mammary margin
    margins marked markedly markings mass masses massive mastectomy may measures measuring
    medial median mediastinal mediastinum medical metallic metastasis metastases metastatic
    middle midline mid midlung midthoracic mild mildly minimal minimally minor mitral moderate
    moderately month months more most multifocal multilevel multiple muscle narrowing nasogastric
    near necessary neck need new next no nodal node nodes nodular nodule nodules non none
    nonspecific nor normal normally not note noted now numerous obscured obscures obscuring
    obstruction obstructive obtained obvious occasional of old older on one only opacification
    opacified opacities opacity open or orthopedic osseous osteopenia osteopenic osteophyte
    osteophytes osteoporosis other otherwise out outside over overall overlie overlies
    overload overlying pa pacemaker pacer pain parallel parenchyma parenchymal part partial
    partially particularly patchy patient patients pattern penetrated penetration perfusion
    perhaps pericardial perihilar peripheral peripherally peritoneal persist persistent
    persisting persists picc place placed placement plaque plaques plate platelike pleura
    pleural plethora pneumomediastinum pneumonia pneumonic pneumonitis pneumoperitoneum
    pneumothoraces pneumothorax poor port portable portion position positioned positioning
    possible possibly post posterior posteriorly postoperative postsurgical potential
    predominantly presence present preserved previous previously primary prior probable
    probably process processes progressed progression projected projecting projection
    projects prominence prominent prosthesis proximal pulmonary quadrant question
    questionable radiation radiograph radiographic radiographs radiology rather ratio real
    recent recently recommend recommended reduced reflect region related relative relatively
    remain remains removal removed renal repeat represent representing represents resection
    residual resolution resolved resolving respiratory result reticular reticulonodular
    retrocardiac rib ribs right rightward rotated rotation round rounded rule same sarcoidosis
    satisfactory scan scapula scar scarring scattered scoliosis scoliotic screening second
    secondary see seen segment segmental separate septal series severe severely shadow shadows
    shallow shape sharp shift shifted shortness shoulder shoulders show showing shown shows side
    sided sides sign significant significantly signs silhouette similar simple since single
    site situ size sized slight slightly small smaller smoker smooth soft solid some spiculated
    spine spinal spleen spondylosis stability stable standing status stent sternal sternotomy
    sternum still stomach streaky structure structures study subclavian subcutaneous
    subdiaphragmatic subjacent subpleural subpulmonic subsegmental subtle such suggest
    suggested suggesting suggestion suggestive suggests superimposed superior supine support
    surgery surgical surgically suspected suspicious suture sutures symmetric symptoms
    technique tension than that the their there these they thick thickened thickening thin this
    thoracentesis thoracic thoracotomy thorax those though three thyroid time tip tissue tissues
    to today tortuosity tortuous total trace trachea tracheal tracheostomy transverse trauma
    treatment tube tubes tuberculosis tumor two underlying unchanged undetermined unfolded
    unfolding unilateral unlikely unremarkable until upper upright up use valve variant
    vascular vascularity vasculature vein veins vena venous ventilation ventricle ventricular
    versus vertebra vertebrae vertebral very vessel vessels view views visible visualization
    visualized volume volumes wall was wedge week weeks well were when where whereas which
    while white wide widened widening will wires with within without woman work would x xray
    year years yet zone zones
""".split()


def vocabulary() -> list[str]:
    """All word pieces, in the order of their numbers; the same list every time."""
    texts = [noun for nouns in reports.NOUNS.values() for noun in nouns]
    texts += [frame for frames in reports.FRAMES.values() for frame in frames]
    texts += [word for words in (reports.DEGREES | reports.SIDES).values() for word in words]
    texts += [
        text for states in reports.PLAIN.values() for some in states.values() for text in some
    ]
    texts += reports.NORMAL
    for grammar in prompt_grammars().values():
        texts += [phrase for places in grammar.values() for place in places for phrase in place]
    grammar_words = re.findall(r"[a-z]+", " ".join(texts).lower())
    letters = list(string.ascii_lowercase + string.digits)
    pieces = [*SPECIAL, *string.punctuation, *letters, *(f"##{c}" for c in letters)]
    pieces += [f"##{ending}" for ending in ENDINGS] + BEGINNINGS + WORDS + grammar_words
    return list(dict.fromkeys(pieces))  # without repeats, first place kept


def build_tokenizer():
    """A lower-casing `BertTokenizer` with `vocabulary()`."""
    from transformers import BertTokenizer

    return BertTokenizer({piece: i for i, piece in enumerate(vocabulary())}, do_lower_case=True)
